"""Submissions: idempotent, checked against data and base model, possible without a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from starlette.testclient import TestClient

from app.auth.scopes import Scope
from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted, Reported, RowsDone
from app.domain.warnings import WarningCode
from app.job_queue import worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import Progress
from app.jobs import preflight
from app.main import create_app
from app.models import Checkpoint, Job
from tests.world import BASE_MODEL, FACTS, World, claim_when_there


def test_same_key_and_body_give_the_same_job(world: World, client: TestClient) -> None:
    spec, key = world.spec(), {"Idempotency-Key": "k-1"}
    first = client.post("/v1/jobs", json=spec, headers=key)
    second = client.post("/v1/jobs", json=spec, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


def test_same_key_with_another_body_is_refused(world: World, client: TestClient) -> None:
    spec, key = world.spec(), {"Idempotency-Key": "k-1"}
    client.post("/v1/jobs", json=spec, headers=key)
    answer = client.post("/v1/jobs", json=spec | {"name": "other"}, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_keys_of_different_tenants_are_independent(
    world: World, client: TestClient, key_for: Callable[..., str]
) -> None:
    key = {"Idempotency-Key": "k-1"}
    client.post("/v1/jobs", json=world.spec(), headers=key)
    client.headers["Authorization"] = f"Bearer {key_for('other')}"
    answer = client.post("/v1/jobs", json=world.spec(), headers=key)
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers


def test_key_can_be_reused_after_a_day(world: World, client: TestClient, engine: Engine) -> None:
    spec, key = world.spec(), {"Idempotency-Key": "k-1"}
    first = client.post("/v1/jobs", json=spec, headers=key).json()
    with transaction(engine) as session:
        session.execute(update(Job).values(created_at=now_ms() - 86_400_001))
    second = client.post("/v1/jobs", json=spec | {"name": "other"}, headers=key)
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


def test_concurrent_requests_with_one_key_create_one_job(
    world: World, client: TestClient, engine: Engine
) -> None:
    spec = world.spec()
    start = threading.Barrier(6)

    def post(_: int) -> Any:
        start.wait()
        return client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(post, range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_every_unknown_id_is_reported(client: TestClient) -> None:
    spec = {
        "base_model": "no-such-model",
        "train_dataset": "ds_" + "0" * 32,
        "eval_dataset": "ds_" + "1" * 32,
    }
    answer = client.post("/v1/jobs", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert [(e["loc"], e["code"]) for e in answer.json()["errors"]] == [
        ("/base_model", "base_model_not_found"),
        ("/train_dataset", "dataset_not_found"),
        ("/eval_dataset", "dataset_not_found"),
    ]
    assert BASE_MODEL in answer.json()["errors"][0]["hint"]


def test_eval_pairs_of_another_format_are_refused(world: World, client: TestClient) -> None:
    turn = '{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "%s"}]'
    turn += (
        ', "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "n"}]}'
    )
    chat = client.post(
        "/v1/datasets", content=turn % "y", headers={"Content-Type": "application/x-ndjson"}
    ).json()
    raw = world.spec(eval_dataset=chat["id"], training={"text_format": "raw"})
    answer = client.post("/v1/jobs", json=raw)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "format_differs"


def test_causal_lm_and_a_missing_head_are_explained(world: World, client: TestClient) -> None:
    spec = world.spec(lora={"task_type": "CAUSAL_LM", "modules_to_save": None})
    answer = client.post("/v1/jobs", json=spec)
    found = {e["loc"]: e["message"] for e in answer.json()["errors"]}
    assert "must be SEQ_CLS" in found["/lora/task_type"]
    assert "reward head" in found["/lora/modules_to_save"]


def test_spec_is_checked_against_the_base_model(world: World, client: TestClient) -> None:
    world.know_base_model()
    spec = world.spec(
        lora={"target_modules": ["classifier", "no_such"], "r": 64}, training={"max_length": 4096}
    )
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 422
    found = {e["loc"]: e["code"] for e in answer.json()["errors"]}
    assert found["/lora/target_modules/1"] == "target_matches_nothing"
    assert found["/training/max_length"] == "beyond_positions"
    assert client.get("/v1/jobs").json()["data"] == []


def test_job_is_accepted_without_a_plan_when_no_worker_runs(
    world: World, client: TestClient
) -> None:
    job = world.submit()
    assert job["plan"] is None
    assert [w["code"] for w in job["warnings"]] == ["not_inspected"]
    refused = client.post("/v1/jobs?dry_run=true", json=world.spec())
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0


def test_warning_of_no_inspection_is_removed_by_the_inspection(
    world: World, engine: Engine, settings: Settings
) -> None:
    blind = world.submit()
    lease = world.claim()
    world.know_base_model()
    plan = TrainingPlan.model_validate(world.submit()["plan"])
    short = Noted(code=WarningCode.MEMORY_SHORT, message="too little", is_warning=True)
    worker_api.record_progress(lease, Progress(plan=plan, notes=[short]))
    assert [w["code"] for w in world.get(blind)["warnings"]] == ["memory_short"]


def test_inspection_is_queued_once_and_not_listed(
    world: World, client: TestClient, engine: Engine
) -> None:
    world.submit()
    world.submit()
    with transaction(engine) as session:
        count = session.scalar(select(func.count()).where(Job.kind == "preflight"))
        preflight = session.scalar(select(Job.id).where(Job.kind == "preflight"))
    assert count == 1
    assert len(client.get("/v1/jobs").json()["data"]) == 2
    assert client.get(f"/v1/jobs/{preflight}").status_code == 404


@pytest.fixture
def patient(settings: Settings, key_for: Callable[..., str], engine: Engine) -> Any:
    """The world of a service that waits for inspections."""
    patient_settings = settings.model_copy(update={"preflight_wait_seconds": 30.0})
    with TestClient(create_app(patient_settings)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        yield World(client, engine, patient_settings)


def during(work: Callable[[], None], request: Callable[[], Any]) -> Any:
    """Make the request while ``work`` runs in a thread; return the response."""
    worker = threading.Thread(target=work)
    worker.start()
    try:
        return request()
    finally:
        worker.join()


def test_submission_waits_for_the_inspection_and_has_a_plan(patient: World) -> None:
    def inspect() -> None:
        lease = claim_when_there(patient)
        patient.know_base_model()
        worker_api.complete(lease, {})

    spec = patient.spec()
    answer = during(inspect, lambda: patient.client.post("/v1/jobs", json=spec))
    assert answer.status_code == 201, answer.text
    assert answer.json()["plan"]["architecture"] == FACTS.architecture
    assert answer.json()["warnings"] == []


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_unsupported_base_model_is_refused_with_the_reason(patient: World, query: str) -> None:
    def inspect() -> None:
        detail = "T5 has no sequence-classification head"
        patient.fail(claim_when_there(patient), FailureCode.MODEL_UNSUPPORTED, detail)

    spec = patient.spec()
    answer = during(inspect, lambda: patient.client.post(f"/v1/jobs{query}", json=spec))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    error = answer.json()["errors"][0]
    assert (error["loc"], error["code"]) == ("/base_model", "model_unsupported")
    assert error["message"] == "T5 has no sequence-classification head"


def test_submission_over_the_queue_quota_is_refused(
    settings: Settings, engine: Engine, key_for: Callable[..., str]
) -> None:
    small = settings.model_copy(update={"quota_queued": 2})
    with TestClient(create_app(small)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        world = World(client, engine, small)
        first = world.submit()
        world.submit()
        answer = client.post("/v1/jobs", json=world.spec())
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        client.post(f"/v1/jobs/{first['id']}/cancel")
        assert client.post("/v1/jobs", json=world.spec()).status_code == 201


def test_full_storage_refuses_new_jobs_and_keeps_results_of_running_ones(
    settings: Settings, engine: Engine, key_for: Callable[..., str]
) -> None:
    with TestClient(create_app(settings.model_copy(update={"quota_stored_bytes": 10_000}))) as full:
        full.headers["Authorization"] = f"Bearer {key_for('acme')}"
        world = World(full, engine, settings)
        key = {"Idempotency-Key": "k-1"}
        spec = world.spec()
        job = full.post("/v1/jobs", json=spec, headers=key).json()
        lease = world.claim()
        adapter_id = world.publish(lease, {"a.bin": bytes(100)})
        running = world.submit(train_dataset=spec["train_dataset"])
        lease = world.claim()
        world.checkpoint(lease, 5)
        with transaction(engine) as session:
            session.execute(update(Checkpoint).values(bytes=10_000))
        for path, body in (
            ("/v1/jobs", spec),
            (f"/v1/jobs/{job['id']}/clone", {}),
            (f"/v1/adapters/{adapter_id}/merge", None),
        ):
            answer = full.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded"), path
        assert full.post("/v1/jobs", json=spec, headers=key).json()["id"] == job["id"]
        published = world.publish(lease, {"b.bin": bytes(20_000)})
        assert world.get(running)["adapter_id"] == published
        full.headers["Authorization"] = f"Bearer {key_for('other')}"
        assert full.post("/v1/jobs", json=world.spec()).status_code == 201


def test_runtime_over_the_quota_is_refused_and_the_default_is_lowered(
    settings: Settings, engine: Engine, key_for: Callable[..., str]
) -> None:
    short = settings.model_copy(update={"quota_runtime_seconds": 3600})
    with TestClient(create_app(short)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        world = World(client, engine, short)
        asked = world.spec(resources={"max_runtime_seconds": 7200})
        answer = client.post("/v1/jobs", json=asked)
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (
            422,
            "/resources/max_runtime_seconds",
        )
        assert client.post("/v1/jobs", json=world.spec()).status_code == 201


@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "\x7f", "\ud800"])
@pytest.mark.parametrize("field", ["name", "metadata"])
def test_control_characters_and_surrogates_are_refused(
    world: World, client: TestClient, field: str, text: str
) -> None:
    fields = {"name": text} if field == "name" else {"metadata": {"k": text}}
    body = json.dumps(world.spec() | fields)
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_dry_run_leaves_out_overlong_pairs(patient: World) -> None:
    patient.know_base_model()

    def report() -> None:
        lease = claim_when_there(patient)
        document = {"rows": 20, "findings": {"overlong": {"count": 10, "lines": [1, 2]}}}
        said = [Reported(name="dataset", document=document)]
        worker_api.record_progress(lease, Progress(reports=said))
        worker_api.complete(lease, {})

    spec = patient.spec(training={"batch_size": 1}, eval_dataset={"fraction": 0.2})
    answer = during(report, lambda: patient.client.post("/v1/jobs?dry_run=true", json=spec))
    assert answer.json()["steps"] == 8  # of the remaining 10 pairs 2 are held out


def test_dry_run_of_a_large_dataset_returns_the_reports_of_a_sample_first(
    patient: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SAMPLE_WAIT_SECONDS", 0.2)
    patient.know_base_model()
    leases: list[WriteContext] = []
    sample = {
        "rows": 5,
        "findings": {"overlong": {"count": 1}},
        "rows_looked_at": 5,
        "rows_in_all": 20,
    }

    def report_sample() -> None:
        leases.append(claim_when_there(patient))
        documents = {"dataset": sample, "memory": {"bytes": 1}}
        said = [Reported(name=name, document=each) for name, each in documents.items()]  # type: ignore[arg-type]
        worker_api.record_progress(leases[0], Progress(reports=said))

    spec, path = patient.spec(training={"batch_size": 1}), "/v1/jobs?dry_run=true"
    answer = during(report_sample, lambda: patient.client.post(path, json=spec)).json()
    assert answer["reports"]["dataset"] == sample
    assert answer["steps"] == 16  # of all pairs, if as many are overlong as in the sample
    assert [each["code"] for each in answer["warnings"]] == ["report_sampled"]
    assert "5 of 20 training rows" in answer["warnings"][0]["message"]
    whole = sample | {"rows": 20, "rows_looked_at": 20}
    said = [Reported(name="dataset", document=whole)]
    worker_api.record_progress(leases[0], Progress(reports=said))
    worker_api.complete(leases[0], {})
    again = patient.client.post(path, json=spec).json()
    assert (again["reports"]["dataset"], again["warnings"]) == (whole, [])


def test_tokenised_rows_are_the_progress_of_their_phase(world: World, client: TestClient) -> None:
    world.know_base_model()
    job = world.submit()
    lease = world.claim()

    def progress() -> dict[str, Any]:
        return dict(client.get(f"/v1/jobs/{job['id']}").json()["progress"])

    worker_api.record_progress(lease, Progress(phase="tokenizing"))
    assert (progress()["rows_done"], progress()["seconds_left"]) == (None, None)
    rows = RowsDone(done=300, total=1000, seconds_left=7.5)
    worker_api.record_progress(lease, Progress(rows=rows))
    found = progress()
    assert (found["rows_done"], found["rows_total"], found["seconds_left"]) == (300, 1000, 7.5)
    worker_api.record_progress(lease, Progress(phase="training"))
    assert progress()["rows_total"] is None


def test_dry_run_returns_the_reports_of_a_worker(patient: World) -> None:
    patient.know_base_model()
    asked: list[str] = []
    dataset = {"rows": 20, "findings": {"overlong": {"count": 0}}, "longer_is_better": 0.5}

    def report() -> None:
        lease = claim_when_there(patient)
        asked.append(lease.job_id)
        said = [
            Reported(name="dataset", document=dataset),
            Reported(name="memory", document={"bytes": 1}),
        ]
        short = Noted(code=WarningCode.MEMORY_SHORT, message="too little", is_warning=True)
        worker_api.record_progress(lease, Progress(reports=said, notes=[short]))
        worker_api.complete(lease, {})

    spec, path = patient.spec(), "/v1/jobs?dry_run=true"
    answer = during(report, lambda: patient.client.post(path, json=spec))
    assert answer.status_code == 200, answer.text
    assert answer.json()["reports"] == {"dataset": dataset, "memory": {"bytes": 1}}
    assert answer.json()["warnings"] == [{"code": "memory_short", "message": "too little"}]
    # The reports are reused for jobs with other names, and as the report of the dataset.
    again = patient.client.post(path, json=spec | {"name": "other"})
    assert again.json()["reports"] == answer.json()["reports"]
    url = f"/v1/datasets/{spec['train_dataset']}/report?base_model={BASE_MODEL}"
    assert patient.client.get(url).json()["report"]["rows"] == 20
    assert len(asked) == 1
    assert patient.client.get("/v1/jobs").json()["data"] == []


def test_key_that_may_only_read_gets_reports_and_starts_none(
    patient: World, key_for: Callable[..., str]
) -> None:
    patient.know_base_model()
    url = f"/v1/datasets/{patient.upload()['id']}/report?base_model={BASE_MODEL}"
    read_only = {"Authorization": f"Bearer {key_for('acme', Scope.JOBS_READ)}"}

    def report() -> None:
        lease = claim_when_there(patient)
        said = [Reported(name="dataset", document={"rows": 20})]
        worker_api.record_progress(lease, Progress(reports=said))
        worker_api.complete(lease, {})

    refused = patient.client.get(url, headers=read_only)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    with transaction(patient.engine) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert during(report, lambda: patient.client.get(url)).status_code == 200
    assert patient.client.get(url, headers=read_only).json()["report"] == {"rows": 20}


def test_base_model_that_just_failed_its_inspection_is_not_inspected_again(
    patient: World, client: TestClient
) -> None:
    def grow() -> None:
        patient.fail(claim_when_there(patient), FailureCode.OUT_OF_MEMORY, "it grew")

    path, spec = "/v1/jobs?dry_run=true", patient.spec()
    first = during(grow, lambda: patient.client.post(path, json=spec))
    again = patient.client.post(path, json=spec)
    assert (first.status_code, again.status_code) == (422, 422)
    assert again.json()["errors"] == first.json()["errors"]
    with transaction(patient.engine) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_unclaimed_inspection_does_not_block_the_deletion_of_its_dataset(
    world: World, client: TestClient
) -> None:
    dataset = world.upload()["id"]
    answer = client.get(f"/v1/datasets/{dataset}/report?base_model={BASE_MODEL}")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 204


def test_failed_inspection_is_reported_with_its_reason(patient: World) -> None:
    def fail() -> None:
        for _ in range(patient.settings.max_failures):
            patient.fail(claim_when_there(patient), FailureCode.HUB_UNAVAILABLE, "no hub")
            with transaction(patient.engine) as session:
                session.execute(update(Job).values(run_after=0))

    def ask(method: str, path: str, **more: Any) -> Any:
        return during(fail, lambda: patient.client.request(method, path, **more))

    spec = patient.spec()
    refused = ask("POST", "/v1/jobs?dry_run=true", json=spec)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "no hub" in refused.json()["detail"]
    assert ask("POST", "/v1/jobs", json=spec).status_code == 201
    patient.know_base_model()
    url = f"/v1/datasets/{spec['train_dataset']}/report?base_model={BASE_MODEL}"
    refused = ask("GET", url)
    assert (refused.status_code, "no hub" in refused.json()["detail"]) == (503, True)
    (warning,) = ask("POST", "/v1/jobs?dry_run=true", json=spec).json()["warnings"]
    assert (warning["code"], "no hub" in warning["message"]) == ("not_reported", True)


@pytest.mark.parametrize(
    ("code", "loc"),
    [("dataset_invalid", "/train_dataset"), ("pairs_overlong", "/training/max_length")],
)
def test_dry_run_refuses_data_that_cannot_be_trained_on(
    patient: World, code: str, loc: str
) -> None:
    patient.know_base_model()

    def report() -> None:
        lease = claim_when_there(patient)
        said = [Reported(name="dataset", document={"rows": 20})]
        worker_api.record_progress(lease, Progress(reports=said))
        patient.fail(lease, FailureCode(code), "all rows too long")

    spec = patient.spec()
    answer = during(report, lambda: patient.client.post("/v1/jobs?dry_run=true", json=spec))
    assert answer.status_code == 422
    assert (answer.json()["errors"][0]["loc"], answer.json()["errors"][0]["code"]) == (loc, code)
    # The report of the dataset can be read without another inspection.
    url = f"/v1/datasets/{spec['train_dataset']}/report?base_model={BASE_MODEL}"
    assert patient.client.get(url).json()["report"] == {"rows": 20}


def test_failed_inspection_names_the_field(patient: World) -> None:
    patient.know_base_model()

    def refuse() -> None:
        lease = claim_when_there(patient)
        patient.fail(lease, FailureCode.QUANTIZATION_UNAVAILABLE, "there is no GPU")

    spec = patient.spec()
    answer = during(refuse, lambda: patient.client.post("/v1/jobs?dry_run=true", json=spec))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == "/quantization"


def test_warnings_of_a_dataset_reach_the_dry_run_and_the_job(
    world: World, client: TestClient
) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "ab"[n > 0]} for n in range(12)]
    body = "".join(json.dumps(row | {"note": "x"}) + "\n" for row in rows)
    answer = client.post(
        "/v1/datasets?on_invalid=skip",
        content=body,
        headers={"Content-Type": "application/x-ndjson"},
    )
    dataset = answer.json()
    ignored, skipped = (f"training dataset: {w['message']}" for w in dataset["warnings"])
    expected = [
        {"code": "columns_ignored", "message": ignored},
        {"code": "rows_skipped", "message": f"{skipped} (line 1)"},
    ]
    world.know_base_model()
    job = world.submit(train_dataset=dataset["id"])
    assert job["warnings"] == expected
    spec = world.spec(train_dataset=dataset["id"])
    preview = client.post("/v1/jobs?dry_run=true", json=spec).json()
    assert [each for each in preview["warnings"] if each in expected] == expected
