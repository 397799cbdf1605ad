"""Evaluations over HTTP: rejected requests, progress, results and comparisons."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from app.core.database import transaction
from app.domain.judging.score_table import ScoredRow
from app.evaluations import comparing
from app.job_queue.lease import WriteContext
from app.main import create_app
from app.models import Evaluation, StoredFile, WebhookDelivery
from app.webhooks import service as webhooks
from tests.world import World

UNKNOWN_ADAPTER = "ad_" + "0" * 32


def rows(skill: float, *, count: int = 60, seed: int = 0) -> list[ScoredRow]:
    rng = np.random.default_rng(seed)
    return [
        ScoredRow(
            line, str(line // 2), (1, 2), (float(rng.normal(skill)), float(rng.normal())), (5, 7)
        )
        for line in range(1, count + 1)
    ]


def finish(world: World, evaluation: dict[str, Any], table: list[ScoredRow]) -> WriteContext:
    """Run the next evaluation as a worker."""
    context = world.claim()
    assert context.job_id.partition("_")[2] == evaluation["id"].partition("_")[2]
    tables = {"base:untrained": rows(0.0, seed=9)}
    world.publish_scores(context, tables | dict.fromkeys(evaluation["adapters"], table))
    return context


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["loc"]: error["code"] for error in answer.json()["errors"]}


def test_evaluation_runs_to_its_result(world: World, client: TestClient) -> None:
    evaluation = world.request_evaluation(name="first", probes=["reply_empty"])
    url = f"/v1/evaluations/{evaluation['id']}"
    assert (evaluation["status"], evaluation["result"]) == ("queued", None)
    assert evaluation["spec"]["probes"] == ["reply_empty"]
    table = rows(1.0)
    finish(world, evaluation, table)
    done = client.get(url, params={"wait": 1}).json()
    assert (done["status"], done["dataset_uses"]) == ("succeeded", 1)
    assert [m["adapter"] for m in done["result"]["models"]] == [
        "base:untrained", *evaluation["adapters"],
    ]  # fmt: skip
    scores = client.get(f"{url}/scores")
    assert scores.text == "".join(f"{row.to_json()}\n" for row in table)
    rest = client.get(f"{url}/scores", headers={"Range": "bytes=10-"})
    assert (rest.status_code, rest.text) == (206, scores.text[10:])
    same = client.get(f"{url}/scores", headers={"If-None-Match": scores.headers["etag"]})
    assert same.status_code == 304
    untrained = client.get(f"{url}/scores", params={"adapter": "base:untrained"})
    assert json.loads(untrained.text.splitlines()[0])["line"] == 1
    missing = client.get(f"{url}/scores", params={"adapter": UNKNOWN_ADAPTER})
    assert (missing.status_code, missing.json()["code"]) == (404, "evaluation_not_found")
    events = [event["type"] for event in client.get(f"{url}/events").json()["data"]]
    assert events == ["queued", "claimed", "succeeded"]
    listed = client.get("/v1/evaluations").json()["data"]
    assert [(item["id"], item["name"]) for item in listed] == [(evaluation["id"], "first")]


def test_evaluations_are_listed_in_pages(world: World, client: TestClient) -> None:
    first = world.request_evaluation()
    ids = [first["id"]]
    for _ in range(2):
        more = world.request_evaluation(adapters=first["adapters"], dataset=first["dataset"])
        ids.append(more["id"])
    found, after = [], None
    for _ in range(3):
        page = client.get("/v1/evaluations", params={"limit": 1, "after": after} if after else
                          {"limit": 1}).json()  # fmt: skip
        found += [item["id"] for item in page["data"]]
        after = page["next"]
    assert (found, after) == (ids[::-1], None)


def test_evaluations_are_no_jobs_of_the_jobs_api(world: World, client: TestClient) -> None:
    evaluation = world.request_evaluation()
    job_id = evaluation["id"].replace("eval_", "job_")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert job_id not in {job["id"] for job in client.get("/v1/jobs").json()["data"]}


def test_every_part_that_does_not_fit_is_named(world: World, client: TestClient) -> None:
    world.know_base_model()
    job = world.submit()
    merged = world.publish(world.claim(), {"adapter_config.json": b"{}"}, is_merged=True)
    answer = client.post(
        "/v1/evaluations",
        json={
            "adapters": [UNKNOWN_ADAPTER, merged, UNKNOWN_ADAPTER],
            "dataset": job["spec"]["train_dataset"],
            "suite": "reward-bench-2@1",
            "slices": ["nowhere"],
        },
    )
    assert errors(answer) == {
        "/adapters/0": "adapter_not_found",
        "/adapters/1": "adapter_merged",
        "/adapters/2": "duplicate",
        "/dataset": "wrong_row_form",
        "/slices/0": "unknown_slice",
    }


@pytest.mark.parametrize(
    ("spec", "place", "code"),
    [
        ({"adapters": ["base:untrained"]}, "/adapters", "no_adapter"),
        ({"adapters": []}, "/adapters", "too_short"),
        ({"adapters": [UNKNOWN_ADAPTER] * 9}, "/adapters", "too_long"),
        ({"suite": "my-bench@3"}, "/suite", "unknown_suite"),
        ({"dataset": "ds_" + "0" * 32}, "/dataset", "dataset_not_found"),
        ({"probes": ["hypnosis"]}, "/probes/0", "not_one_of"),
        ({"probe_pairs": 100_000}, "/probe_pairs", "out_of_range"),
    ],
    ids=str,
)
def test_spec_that_cannot_be_evaluated_is_refused(
    world: World, client: TestClient, spec: dict[str, Any], place: str, code: str
) -> None:
    known = {"adapters": [UNKNOWN_ADAPTER], "dataset": world.upload()["id"]}
    found = errors(client.post("/v1/evaluations", json=known | spec))
    assert found[place] == code, found


@pytest.mark.parametrize(
    ("row", "is_accepted"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, True),
        ({"prompt": "q", "chosen": ["good"], "rejected": ["bad", "worse"]}, True),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "chosen": [{"role": "assistant", "content": "good"}],
                "rejected": [{"role": "assistant", "content": "bad"}],
            },
            False,  # the adapter was trained on texts, which have no place for roles
        ),
    ],
    ids=["text", "ranked", "conversational"],
)
def test_dataset_must_fit_what_the_adapter_was_trained_on(
    world: World, client: TestClient, row: dict[str, Any], is_accepted: bool
) -> None:
    world.know_base_model()
    world.submit()
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    upload = client.post(
        "/v1/datasets",
        content=json.dumps(row) + "\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert upload.status_code == 201, upload.text
    answer = client.post(
        "/v1/evaluations", json={"adapters": [adapter_id], "dataset": upload.json()["id"]}
    )
    if is_accepted:
        assert answer.status_code == 201, answer.text
    else:
        assert errors(answer) == {"/adapters/0": "format_differs"}


def test_cancelled_evaluation_can_be_deleted(world: World, client: TestClient) -> None:
    evaluation = world.request_evaluation()
    url = f"/v1/evaluations/{evaluation['id']}"
    assert client.delete(url).json()["code"] == "evaluation_live"
    for _ in range(2):
        assert client.post(f"{url}/cancel").json()["status"] == "cancelled"
    assert client.get(f"{url}/scores").json()["code"] == "evaluation_unfinished"
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404


def test_deleted_evaluation_leaves_no_files(
    world: World, client: TestClient, engine: Engine
) -> None:
    evaluation = world.request_evaluation()
    finish(world, evaluation, rows(1.0))
    owned = select(StoredFile).where(StoredFile.owner_id == evaluation["id"])
    with transaction(engine) as session:
        files = list(session.scalars(owned))
        row = session.get_one(Evaluation, evaluation["id"])
        assert row.bytes == sum(file.size for file in files) > 0
    url = f"/v1/evaluations/{evaluation['id']}"
    assert client.post(f"{url}/cancel").json()["code"] == "evaluation_finished"
    assert client.delete(url).status_code == 204
    with transaction(engine) as session:
        assert list(session.scalars(owned)) == []
        assert session.get(Evaluation, evaluation["id"]) is None


def test_running_evaluation_is_cancelled_by_its_worker(world: World, client: TestClient) -> None:
    evaluation = world.request_evaluation()
    context = world.claim()
    url = f"/v1/evaluations/{evaluation['id']}"
    assert client.post(f"{url}/cancel").json()["status"] == "cancelling"
    world.release(context)
    assert client.get(url).json()["status"] == "cancelled"


def test_waiting_evaluations_are_limited(world: World, client: TestClient) -> None:
    first = world.request_evaluation()
    body = {"adapters": first["adapters"], "dataset": first["dataset"]}
    full = create_app(world.settings.model_copy(update={"quota_queued": 1}))
    with TestClient(full, headers=client.headers) as limited:
        answer = limited.post("/v1/evaluations", json=body)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")


def test_webhooks_tell_about_evaluations(world: World, engine: Engine) -> None:
    evaluation = world.request_evaluation()
    with transaction(engine) as session:
        wanted = ["evaluation.running", "evaluation.succeeded"]
        webhooks.create(session, "acme", "https://hooks.example.com/", wanted)
    finish(world, evaluation, rows(1.0))
    with transaction(engine) as session:
        sent = list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.event_id)))
        found = [(each.type, each.data["object"], each.data["id"]) for each in sent]
    assert found == [
        ("evaluation.running", "evaluation", evaluation["id"]),
        ("evaluation.succeeded", "evaluation", evaluation["id"]),
    ]


def test_actions_on_evaluations_are_recorded(world: World, client: TestClient) -> None:
    evaluation = world.request_evaluation()
    url = f"/v1/evaluations/{evaluation['id']}"
    client.post(f"{url}/cancel")
    client.delete(url)
    log = client.get("/v1/audit", params={"limit": 3}).json()["data"]
    assert [(row["action"], row["object_id"]) for row in reversed(log)] == [
        ("evaluation.create", evaluation["id"]),
        ("evaluation.cancel", evaluation["id"]),
        ("evaluation.delete", evaluation["id"]),
    ]


# -- repeated requests, datasets by content, streams --------------------------------------------


def test_repeated_request_gets_the_same_evaluation(world: World, client: TestClient) -> None:
    known = world.request_evaluation()
    body = {"adapters": known["adapters"], "dataset": known["dataset"], "probes": []}
    key = {"Idempotency-Key": "k-1"}
    first = client.post("/v1/evaluations", json=body, headers=key)
    assert client.delete(f"/v1/adapters/{known['adapters'][0]}").status_code == 204
    second = client.post("/v1/evaluations", json=body, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == f"/v1/evaluations/{first.json()['id']}"
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(client.get("/v1/evaluations").json()["data"]) == 2
    created = [row["object_id"] for row in client.get("/v1/audit").json()["data"]
               if row["action"] == "evaluation.create"]  # fmt: skip
    assert sorted(created) == sorted([known["id"], first.json()["id"]])
    without = client.post("/v1/evaluations", json=body)
    assert errors(without) == {"/adapters/0": "adapter_not_found"}


def test_key_belongs_to_one_request_of_any_kind(world: World, client: TestClient) -> None:
    known = world.request_evaluation()
    body = {"adapters": known["adapters"], "dataset": known["dataset"]}
    key = {"Idempotency-Key": "k-1"}
    made = client.post("/v1/evaluations", json=body, headers=key).json()
    others = [
        client.post("/v1/evaluations", json=body | {"seed": 1}, headers=key),
        client.post("/v1/jobs", json=world.spec(), headers=key),
    ]
    for answer in others:
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert made["id"] in answer.json()["detail"]


def test_concurrent_requests_with_one_key_create_one_evaluation(
    world: World, client: TestClient
) -> None:
    known = world.request_evaluation()
    body = {"adapters": known["adapters"], "dataset": known["dataset"]}
    start = threading.Barrier(4)

    def post(_: int) -> Any:
        start.wait()
        return client.post("/v1/evaluations", json=body, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(post, range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/evaluations").json()["data"]) == 2


def test_dataset_is_named_by_the_digest_of_its_rows(
    world: World, client: TestClient, key_for: Callable[..., str]
) -> None:
    known = world.request_evaluation()
    sha256 = client.get(f"/v1/datasets/{known['dataset']}").json()["sha256"]
    body = {"adapters": known["adapters"], "dataset": {"sha256": sha256}}
    made = client.post("/v1/evaluations", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["dataset"] == made.json()["spec"]["dataset"] == known["dataset"]
    finish(world, known, rows(1.0))
    finish(world, made.json(), rows(1.0))
    answer = client.post("/v1/evaluations", json=body | {"dataset": {"sha256": "0" * 64}})
    assert errors(answer) == {"/dataset": "dataset_not_found"}
    answer = client.post("/v1/evaluations", json=body | {"dataset": 7})
    assert errors(answer) == {"/dataset": "dataset_form"}
    client.headers["Authorization"] = f"Bearer {key_for('other')}"  # rows of another tenant
    assert errors(client.post("/v1/evaluations", json=body))["/dataset"] == "dataset_not_found"


def test_events_are_streamed_and_the_stream_can_be_resumed(
    world: World, client: TestClient
) -> None:
    evaluation = world.request_evaluation()
    finish(world, evaluation, rows(1.0))
    url, accept = f"/v1/evaluations/{evaluation['id']}/events", {"Accept": "text/event-stream"}

    def numbers(**headers: str) -> list[str]:
        answer = client.get(url, headers=accept | headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line.removeprefix("id: ") for line in answer.text.split("\n")
                if line.startswith("id: ")]  # fmt: skip

    assert numbers() == ["1", "2", "3"]
    assert numbers(**{"Last-Event-ID": "1"}) == ["2", "3"]
    over = client.get(url, headers=accept | {"Last-Event-ID": "3"})
    assert over.status_code == 204
    job = url.replace("evaluations/eval_", "jobs/job_")
    assert client.get(job, headers=accept).status_code == 404


# -- comparisons ---------------------------------------------------------------------------------


def two(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two evaluations of one dataset; the second model is better."""
    first = world.request_evaluation()
    finish(world, first, rows(0.3))
    second = world.request_evaluation(adapters=first["adapters"], dataset=first["dataset"])
    finish(world, second, rows(2.0, count=50))
    return first, second


def test_comparison_says_which_model_is_better_and_how_surely(
    world: World, client: TestClient
) -> None:
    a, b = two(world)
    answer = client.get("/v1/comparisons", params={"a": a["id"], "b": b["id"]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    hits = [
        np.array([r.scores[0] > r.scores[1] for r in rows(skill, count=50)], float)
        for skill in (0.3, 2.0)
    ]
    assert (found["rows"], found["rows_only_in_a"], found["rows_only_in_b"]) == (50, 10, 0)
    assert (found["pairs"], found["prompts"]) == (50, 26)
    assert found["difference"]["value"] == pytest.approx(np.mean(hits[1] - hits[0]))
    low, high = found["difference"]["interval"]
    assert 0 < low < found["difference"]["value"] < high
    assert found["disagreements"] == {
        "a_better": int(np.sum(hits[0] > hits[1])),
        "b_better": int(np.sum(hits[1] > hits[0])),
    }
    assert found["dataset_uses"] == 2
    assert found["a"] == {"evaluation": a["id"], "adapter": a["adapters"][0]}


def test_swapped_comparison_is_the_same_the_other_way_round(
    world: World, client: TestClient
) -> None:
    first = world.request_evaluation(seed=1)
    finish(world, first, rows(0.3))
    second = world.request_evaluation(adapters=first["adapters"], dataset=first["dataset"], seed=2)
    finish(world, second, rows(2.0))
    there, back = (
        client.get("/v1/comparisons", params={"a": a["id"], "b": b["id"]}).json()
        for a, b in ((first, second), (second, first))
    )
    low, high = there["difference"]["interval"]
    assert back["difference"]["interval"] == pytest.approx([-high, -low], abs=1e-12)
    assert back["mcnemar"] == there["mcnemar"]


def test_evaluation_that_is_deleted_during_a_comparison_is_not_found(
    world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two(world)

    def read_range(*_: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(comparing, "read_range", read_range)
    answer = client.get("/v1/comparisons", params={"a": a["id"], "b": b["id"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "evaluation_not_found")
    assert a["id"] in answer.json()["detail"]


def test_models_of_one_evaluation_are_compared(world: World, client: TestClient) -> None:
    a = world.request_evaluation()
    finish(world, a, rows(2.0))
    query = {"a": a["id"], "b": a["id"], "a_adapter": "base:untrained"}
    found = client.get("/v1/comparisons", params=query).json()
    assert found["difference"]["value"] > 0
    same = client.get("/v1/comparisons", params={"a": a["id"], "b": a["id"]})
    assert (same.status_code, same.json()["code"]) == (422, "invalid_comparison")


def test_evaluations_of_other_rows_are_not_compared(world: World, client: TestClient) -> None:
    a, b = world.request_evaluation(), None
    finish(world, a, rows(1.0))
    b = world.request_evaluation(adapters=a["adapters"], dataset=world.upload()["id"])
    finish(world, b, rows(1.0))
    answer = client.get("/v1/comparisons", params={"a": a["id"], "b": b["id"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_comparison")
    assert "same dataset" in answer.json()["hint"]


def test_suites_tell_their_rules(client: TestClient) -> None:
    suites = {suite["id"]: suite for suite in client.get("/v1/suites").json()["data"]}
    assert suites["reward-bench-2@1"]["counts"]["Ties"] == 102
    assert sum(suites["reward-bench@1"]["counts"].values()) == 2985
    assert sum(suites["rm-bench@1"]["counts"].values()) == 1327
    assert suites["judge-bench@1"]["upload"]["columns[id]"] == "label"
    assert {name for name, suite in suites.items() if suite["is_provisional"]} == {
        "ppe-human@0",
        "ppe-correctness@0",
    }
