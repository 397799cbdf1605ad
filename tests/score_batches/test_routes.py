"""Score batches over HTTP: rejected requests, progress, quotas and repeated requests."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.errors import QuotaError
from app.core.settings import Settings
from app.models import Adapter, Job, StoredFile, WebhookDelivery
from app.storage.quota import check_storage_quota
from app.usage.service import _stored_bytes
from app.webhooks import service as webhooks
from tests.job_queue.factories import read_job
from tests.world import SCORES, World

URL = "/v1/score/batches"
UNKNOWN_ADAPTER, UNKNOWN_DATASET = "ad_" + "0" * 32, "ds_" + "0" * 32


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["loc"]: error["code"] for error in answer.json()["errors"]}


def test_batch_runs_to_its_scores(world: World, client: TestClient) -> None:
    batch = world.request_score_batch(name="nightly")
    url = f"{URL}/{batch['id']}"
    assert (batch["status"], batch["result"], batch["name"]) == ("queued", None, "nightly")
    early = client.get(f"{url}/scores")
    assert (early.status_code, early.json()["code"]) == (409, "score_batch_unfinished")
    context = world.claim()
    assert context.job_id == batch["id"]
    world.step(context, 5, total=20)
    running = client.get(url).json()
    assert (running["status"], running["progress"]["step"]) == ("running", 5)
    world.publish_batch(context)
    done = client.get(url, params={"wait": 1}).json()
    assert (done["status"], done["result"]["scored"]) == ("succeeded", 1)
    assert client.get(f"{url}/scores").content == SCORES
    events = client.get(f"{url}/events").json()["data"]
    assert [event["type"] for event in events] == ["queued", "claimed", "phase", "succeeded"]
    listed = client.get(URL).json()["data"]
    assert [(item["id"], item["adapter"]) for item in listed] == [(batch["id"], batch["adapter"])]
    assert client.get(f"/v1/jobs/{batch['id']}").status_code in (404, 422)
    assert batch["id"] not in {job["id"] for job in client.get("/v1/jobs").json()["data"]}


@pytest.mark.parametrize(("quantization", "needs_gpu"), [("none", False), ("4bit", True)])
def test_batch_of_a_quantized_model_waits_for_a_gpu(
    world: World, engine: Engine, quantization: str, *, needs_gpu: bool
) -> None:
    first = world.request_score_batch()
    with transaction(engine) as session:
        adapter = session.get_one(Adapter, first["adapter"])
        trained = session.get_one(Job, adapter.job_id)
        trained.plan = {**(trained.plan or {}), "quantization": quantization}
    batch = world.request_score_batch(adapter=first["adapter"], dataset=first["dataset"])
    assert read_job(engine, batch["id"]).needs_gpu is needs_gpu


def test_repeated_request_returns_the_same_batch(world: World, client: TestClient) -> None:
    first = world.request_score_batch()
    spec = {"adapter": first["adapter"], "dataset": first["dataset"]}
    key = {"Idempotency-Key": "k-1"}
    made = client.post(URL, json=spec, headers=key)
    again = client.post(URL, json=spec, headers=key)
    assert (made.status_code, again.status_code) == (201, 201)
    assert made.json()["id"] == again.json()["id"] != first["id"]
    assert "idempotency-replayed" not in made.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = client.post(URL, json={**spec, "overlong": "truncate"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    trained = client.post("/v1/jobs", json=world.spec(), headers=key)
    assert trained.json()["code"] == "idempotency_key_reused"
    acts = [row["action"] for row in client.get("/v1/audit").json()["data"]]
    assert acts.count("score_batch.create") == 2


def test_every_part_that_does_not_fit_is_named(world: World, client: TestClient) -> None:
    unknown = {"adapter": UNKNOWN_ADAPTER, "dataset": UNKNOWN_DATASET}
    assert errors(client.post(URL, json=unknown)) == {
        "/adapter": "adapter_not_found",
        "/dataset": "dataset_not_found",
    }
    world.know_base_model()
    job = world.submit()
    merged = world.publish(world.claim(), {"adapter_config.json": b"{}"}, is_merged=True)
    spec = {"adapter": merged, "dataset": job["spec"]["train_dataset"]}
    assert errors(client.post(URL, json=spec)) == {"/adapter": "adapter_merged"}


def test_dataset_of_another_format_is_refused(world: World, client: TestClient) -> None:
    rows = b"".join(
        b'{"prompt": [{"role": "user", "content": "q%d"}], '
        b'"chosen": [{"role": "assistant", "content": "a"}], '
        b'"rejected": [{"role": "assistant", "content": "b"}]}\n' % number
        for number in range(5)
    )
    headers = {"Content-Type": "application/x-ndjson"}
    dataset = client.post("/v1/datasets", content=rows, headers=headers).json()["id"]
    adapter = world.request_score_batch()["adapter"]  # the adapter was trained on texts
    answer = client.post(URL, json={"adapter": adapter, "dataset": dataset})
    assert errors(answer) == {"/dataset": "format_differs"}


def test_waiting_batch_is_cancelled_at_once_and_a_running_one_asked(
    world: World, client: TestClient
) -> None:
    waiting = world.request_score_batch()
    url = f"{URL}/{waiting['id']}"
    for _ in range(2):
        assert client.post(f"{url}/cancel").json()["status"] == "cancelled"
    running = world.request_score_batch(adapter=waiting["adapter"], dataset=waiting["dataset"])
    url = f"{URL}/{running['id']}"
    context = world.claim()
    assert client.post(f"{url}/cancel").json()["status"] == "cancelling"
    world.release(context)
    assert client.get(url).json()["status"] == "cancelled"


def test_webhooks_tell_about_batches(world: World, engine: Engine) -> None:
    batch = world.request_score_batch()
    with transaction(engine) as session:
        wanted = ["score_batch.running", "score_batch.succeeded", "job.succeeded"]
        webhooks.create(session, "acme", "https://hooks.example.com/", wanted)
    world.publish_batch(world.claim())
    with transaction(engine) as session:
        sent = list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.event_id)))
        found = [(each.type, each.data["object"], each.data["id"]) for each in sent]
    assert found == [
        ("score_batch.running", "score_batch", batch["id"]),
        ("score_batch.succeeded", "score_batch", batch["id"]),
    ]


def test_deleted_batch_leaves_no_file(world: World, client: TestClient, engine: Engine) -> None:
    batch = world.request_score_batch()
    url = f"{URL}/{batch['id']}"
    refused = client.delete(url)
    assert (refused.status_code, refused.json()["code"]) == (409, "score_batch_live")
    context = world.claim()
    world.checkpoint(context, 1)
    world.publish_batch(context)
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404
    with transaction(engine) as session:
        owners = set(session.scalars(select(StoredFile.owner_id)))
        assert owners == {batch["adapter"]}
        jobs = select(func.count()).where(Job.id == batch["id"])
        assert session.execute(jobs).scalar_one() == 0


def test_scores_count_against_the_storage_quota(world: World, engine: Engine) -> None:
    batch = world.request_score_batch()
    context = world.claim()
    settings, tenant = world.settings, "acme"

    def stored() -> int:
        """Set the quota one byte below the stored bytes."""
        low, high = 0, 1 << 24
        while low < high:
            middle = (low + high) // 2
            try:
                with transaction(engine) as session:
                    limited = settings.model_copy(update={"quota_stored_bytes": middle})
                    check_storage_quota(session, limited, tenant, 0)
                high = middle
            except QuotaError:
                low = middle + 1
        return low

    before = stored()
    world.publish_batch(context, SCORES * 100)
    after = stored()
    assert after - before == 100 * len(SCORES)
    with transaction(engine) as session:
        assert _stored_bytes(session)[tenant] == after - 1
    assert batch["status"] == "queued"


class TestQueueQuota:
    """The tenant has the maximum number of waiting batches."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"quota_queued": 1})

    def test_second_waiting_batch_is_refused(self, world: World, client: TestClient) -> None:
        first = world.request_score_batch()
        spec = {"adapter": first["adapter"], "dataset": first["dataset"]}
        answer = client.post(URL, json=spec)
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
