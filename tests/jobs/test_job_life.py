"""The life of a job as a client sees it; the test acts as the worker."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.settings import Settings
from app.domain.lifecycle import FAILURES, FailureCode
from app.job_queue import checkpoints
from app.models import Job
from tests.world import FACTS, World

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}


def test_job_is_submitted_trained_and_its_adapter_downloaded(
    world: World, client: TestClient
) -> None:
    world.know_base_model()
    answer = client.post("/v1/jobs", json=world.spec(name="first", metadata={"team": "search"}))
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["attempt"], job["warnings"]) == ("queued", 0, [])
    assert job["plan"]["lora"]["modules_to_save"] == ["classifier"]
    assert job["spec"]["training"]["learning_rate"] == 1e-4  # defaults are shown

    lease = world.claim()
    world.step(lease, 1, 4, train__loss=0.7)
    world.step(lease, 2, 4, train__loss=0.5)
    running = world.get(job)
    assert (running["status"], running["phase"], running["attempt"]) == ("running", "training", 1)
    assert running["progress"]["step"] == 2
    assert running["worker"] == "host-ab/0"

    adapter_id = world.publish(lease, FILES)
    done = world.get(job)
    assert (done["status"], done["adapter_id"], done["worker"]) == ("succeeded", adapter_id, None)
    assert done["finished_at"].endswith("Z")
    adapter = client.get(f"/v1/adapters/{adapter_id}").json()
    assert {file["name"] for file in adapter["files"]} == set(FILES)
    for file in adapter["files"]:
        assert client.get(file["url"]).content == FILES[file["name"]]


def test_failed_job_shows_category_code_detail_and_hint(world: World, job: dict[str, Any]) -> None:
    world.fail(world.claim(), FailureCode.NAN_LOSS, "loss is nan at step 3")
    failed = world.get(job)
    assert failed["status"] == "failed"
    assert failed["failure"]["category"] == "user"
    assert failed["failure"]["code"] == "nan_loss"
    assert failed["failure"]["detail"] == "loss is nan at step 3"
    assert "learning_rate" in failed["failure"]["hint"]


@pytest.mark.parametrize("code", [code for code in FAILURES if code.failure.is_retryable])
def test_hint_of_a_job_that_used_up_its_retries_is_to_clone_it(
    world: World, job: dict[str, Any], engine: Engine, settings: Settings, code: FailureCode
) -> None:
    for _ in range(settings.max_failures):
        assert world.get(job)["failure"] is None
        world.fail(world.claim(), code, "again")
        with transaction(engine) as session:
            session.execute(update(Job).values(run_after=0))
    hint = world.get(job)["failure"]["hint"]
    assert "already retried" in hint
    assert "clone" in hint


def test_waiting_job_is_cancelled_at_once_and_repeatedly(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_running_job_is_cancelling_until_its_worker_stops(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    lease = world.claim()
    answer = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.json()["status"] == "cancelling"
    refused = client.post(f"/v1/jobs/{job['id']}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    world.release(lease)
    assert world.get(job)["status"] == "cancelled"


def test_finished_job_is_not_cancelled(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    world.publish(world.claim(), FILES)
    answer = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")
    assert answer.headers["x-should-retry"] == "false"
    assert "clone" in answer.json()["hint"]


def test_job_is_paused_and_resumed(world: World, client: TestClient, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}"
    assert client.post(f"{path}/pause").json()["status"] == "paused"
    assert client.post(f"{path}/resume").json()["status"] == "queued"
    lease = world.claim()
    assert client.post(f"{path}/pause").json()["status"] == "pausing"
    world.release(lease)
    assert world.get(job)["status"] == "paused"
    assert client.post(f"{path}/resume").json()["status"] == "queued"
    assert world.claim().lease.attempt == 2


def test_name_priority_and_metadata_change_while_the_job_waits(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    changed = client.patch(path, json={"name": "b", "priority": 7, "metadata": {"k": "v"}}).json()
    assert (changed["name"], changed["priority"], changed["metadata"]) == ("b", 7, {"k": "v"})
    world.claim()
    refused = client.patch(path, json={"priority": 8})
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    assert client.patch(path, json={"name": None}).json()["name"] is None


@pytest.mark.parametrize("notes", ["two\nlines\tand a tab", "x" * 10_000, "\u2028 ümlaut 🎉", None])
def test_notes_can_be_written_at_any_time(
    world: World, client: TestClient, job: dict[str, Any], notes: str | None
) -> None:
    path = f"/v1/jobs/{job['id']}"
    assert client.get(path).json()["notes"] is None
    world.publish(world.claim(), FILES)
    tag = client.get(path).headers["etag"]
    changed = client.patch(path, json={"notes": notes})
    assert (changed.status_code, changed.json()["notes"]) == (200, notes)
    assert changed.headers["etag"] != tag
    assert client.get(path).json()["notes"] == notes
    assert "notes" not in client.get("/v1/jobs").json()["data"][0]
    entries = client.get("/v1/audit").json()["data"]
    assert (entries[0]["action"], entries[0]["object_id"]) == ("job.update", job["id"])


@pytest.mark.parametrize("notes", ["x" * 10_001, "a\x00b", "\x1b[2J", 5])
def test_notes_are_bounded_and_have_no_control_characters(
    client: TestClient, job: dict[str, Any], notes: object
) -> None:
    path = f"/v1/jobs/{job['id']}"
    refused = client.patch(path, json={"notes": notes})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == "/notes"
    assert client.get(path).json()["notes"] is None


def test_finished_job_is_deleted_with_its_adapter_and_live_job_is_not(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "job_live")
    adapter_id = world.publish(world.claim(), FILES)
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert client.get(f"/v1/adapters/{adapter_id}").status_code == 404


def test_clone_has_the_parents_spec_with_overrides(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    answer = client.post(
        f"/v1/jobs/{job['id']}/clone",
        json={"overrides": {"training": {"learning_rate": 5e-5}, "name": "again"}},
    )
    assert answer.status_code == 201, answer.text
    clone = answer.json()
    assert clone["parent_job_id"] == job["id"]
    assert clone["spec"]["training"]["learning_rate"] == 5e-5
    assert clone["spec"]["train_dataset"] == job["spec"]["train_dataset"]
    assert clone["name"] == "again"


def test_clone_with_bad_overrides_is_refused(client: TestClient, job: dict[str, Any]) -> None:
    answer = client.post(f"/v1/jobs/{job['id']}/clone", json={"overrides": {"lora": {"r": -1}}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == "/lora/r"


def test_clone_resumes_from_a_kept_checkpoint(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    refused = client.post(f"{path}/clone", json={"from_checkpoint": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    lease = world.claim()
    world.checkpoint(lease, 5)
    client.post(f"{path}/cancel", json={"keep_checkpoint": True})
    world.release(lease)

    refused = client.post(
        f"{path}/clone", json={"from_checkpoint": True, "overrides": {"lora": {"r": 4}}}
    )
    assert refused.status_code == 422
    shorter = {"from_checkpoint": True, "overrides": {"training": {"max_steps": 5}}}
    refused = client.post(f"{path}/clone", json=shorter)
    assert refused.status_code == 422
    assert "that of step 5" in refused.json()["detail"]
    answer = client.post(
        f"{path}/clone",
        json={"from_checkpoint": True, "overrides": {"training": {"epochs": 2, "max_steps": 6}}},
    )
    assert answer.status_code == 201, answer.text
    clone = answer.json()
    found = client.get(f"/v1/jobs/{clone['id']}/checkpoints").json()["data"]
    assert [(c["step"], c["is_current"]) for c in found] == [(5, True)]
    assert client.delete(path).status_code == 204  # the clone has its own copy
    assert len(client.get(f"/v1/jobs/{clone['id']}/checkpoints").json()["data"]) == 1


def test_clone_with_a_key_is_replayed_after_its_checkpoint_is_gone(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    lease = world.claim()
    world.checkpoint(lease, 5)
    url, key = f"/v1/jobs/{job['id']}/clone", {"Idempotency-Key": "k-1"}
    from_checkpoint = {"from_checkpoint": True, "overrides": {"name": "again"}}
    first = client.post(url, json=from_checkpoint, headers=key)
    assert first.status_code == 201, first.text
    world.publish(lease, FILES)
    assert checkpoints.drop_finished(world.engine) == 1
    again = client.post(url, json=from_checkpoint, headers=key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["id"] == first.json()["id"]
    assert client.post(url, json=from_checkpoint).json()["code"] == "job_state"


@pytest.mark.parametrize(
    "other",
    [{}, {"from_checkpoint": True, "overrides": {"name": "other"}}],
    ids=["from the start", "with another name"],
)
def test_clone_with_the_key_of_another_clone_is_refused(
    world: World, client: TestClient, job: dict[str, Any], other: dict[str, Any]
) -> None:
    world.checkpoint(world.claim(), 5)
    url, key = f"/v1/jobs/{job['id']}/clone", {"Idempotency-Key": "k-1"}
    first = client.post(url, json={"from_checkpoint": True}, headers=key)
    assert first.status_code == 201, first.text
    answer = client.post(url, json=other, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_dry_run_shows_plan_and_stores_nothing(world: World, client: TestClient) -> None:
    world.know_base_model()
    spec = world.spec(eval_dataset={"fraction": 0.1}, training={"batch_size": 4})
    answer = client.post("/v1/jobs?dry_run=true", json=spec)
    assert answer.status_code == 200, answer.text
    preview = answer.json()
    assert preview["adapter_config"]["task_type"] == "SEQ_CLS"
    assert preview["adapter_config"]["target_modules"] == ["query", "value"]
    assert preview["trainable_parameters"] == 2 * 16 * 64 + 33
    assert preview["total_parameters"] == FACTS.parameter_count
    assert preview["steps"] == 5  # 18 of 20 pairs, 4 a step
    assert client.get("/v1/jobs").json()["data"] == []
