"""One worker with real trainer processes: how each attempt ends, on both databases."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from app.core.database import new_id, transaction
from app.domain.lifecycle import DesiredState
from app.job_queue import checkpoints, kinds, transitions
from app.models import Adapter, BlobChunk, Checkpoint, Job, JobLog, StoredFile
from tests.services import wait_until
from tests.supervisor.workshop import Workshop
from worker.ipc.order import MANIFEST
from worker.supervisor import job_inputs


def test_job_is_trained_and_published(workshop: Workshop) -> None:
    job_id = workshop.submit()
    with workshop.running_pool():
        job = workshop.wait(job_id, "succeeded", "failed")
    assert (job.status, job.attempt, job.step, job.failures) == ("succeeded", 1, 5, 0)
    assert workshop.adapter(job_id) == workshop.expected()
    assert workshop.events(job_id)[0:2] == ["queued", "claimed"]
    assert workshop.events(job_id)[-1] == "succeeded"
    assert list(workshop.settings.work_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("fail", "nan_loss", "loss is"),
        ("nonsense", "internal", "unknown message"),
        ("always kill", "trainer_crashed", "signal 9"),
    ],
)
def test_failure_is_typed(workshop: Workshop, fault: str, code: str, words: str) -> None:
    job_id = workshop.submit(metadata={"fault": fault})
    with workshop.running_pool():
        job = workshop.wait(job_id, "failed", "succeeded")
    assert (job.status, job.failure_code) == ("failed", code)
    assert words in (job.failure_detail or "")
    assert job.attempt == (3 if fault == "always kill" else 1)


def test_refusal_of_a_base_model_says_what_to_use_instead(workshop: Workshop) -> None:
    (workshop.base_model / "model.safetensors").rename(workshop.base_model / "model.gguf")
    job_id = workshop.submit()
    with workshop.running_pool():
        job = workshop.wait(job_id, "failed")
    assert job.failure_code == "model_unsupported"
    assert "in GGUF files" in (job.failure_detail or "")
    assert "Use the original checkpoint in safetensors" in (job.failure_detail or "")


@pytest.mark.parametrize("fault", ["kill", "exit"])
def test_crashed_trainer_is_restarted_from_its_checkpoint(workshop: Workshop, fault: str) -> None:
    job_id = workshop.submit(metadata={"fault": fault, "fault_step": 4, "steps": 7})
    with workshop.running_pool():
        job = workshop.wait(job_id, "succeeded", "failed")
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert workshop.adapter(job_id) == workshop.expected(7)
    recorded = (workshop.directory / "models" / "record").read_text().split("\n")
    assert next(line.split()[4:] for line in recorded if " 2 " in line) == ["start", "3"]


def test_children_of_a_trainer_are_killed_with_it(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "child"})
    with workshop.running_pool():
        workshop.wait(job_id, "succeeded", "failed")
        wait_until("the trainer's child to be gone", lambda: not workshop.trainers())


def test_checkpoint_with_wrong_hashes_is_ignored(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "leave a mess"})
    with workshop.running_pool():
        job = workshop.wait(job_id, "succeeded", "failed")
    assert job.status == "succeeded"
    assert workshop.adapter(job_id) == workshop.expected()


def test_excessive_log_output_is_cut(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "log"})
    with workshop.running_pool():
        workshop.wait(job_id, "succeeded")
    with transaction(workshop.engine) as session:
        pieces = session.scalars(select(JobLog.text).order_by(JobLog.seq)).all()
    text = "".join(pieces)
    assert text.endswith("\n")
    assert "039999 xxx" in text  # the end is always stored
    assert "\x00" not in text
    assert max(len(piece) for piece in pieces) <= 64 << 10


def test_many_messages_are_stored_completely(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "chatter"})
    with workshop.running_pool():
        workshop.wait(job_id, "succeeded")
    assert workshop.events(job_id).count("engine_stock") == 500


# -- stopping --------------------------------------------------------------------------------


def test_cancelled_job_stops_and_drops_its_checkpoints(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"steps": 10_000, "step_ms": 50})
    with workshop.running_pool():
        workshop.wait_step(job_id, 4)
        workshop.set_desired_state(job_id, DesiredState.CANCEL)
        workshop.set_desired_state(job_id, DesiredState.CANCEL)
        job = workshop.wait(job_id, "cancelled")
        wait_until("the trainer to be gone", lambda: not workshop.trainers())
    assert (job.checkpoint_id, job.adapter_id) == (None, None)
    assert workshop.events(job_id).count("cancel_asked") == 1
    checkpoints.drop_finished(workshop.engine)
    with transaction(workshop.engine) as session:
        assert session.scalar(select(func.count()).select_from(Checkpoint)) == 0


def test_cancel_that_keeps_a_checkpoint_waits_for_one(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"steps": 10_000, "step_ms": 50, "checkpoint_steps": 9999})
    with workshop.running_pool():
        workshop.wait_step(job_id, 2)
        workshop.set_desired_state(job_id, DesiredState.CANCEL, keep_checkpoint=True)
        job = workshop.wait(job_id, "cancelled")
    assert job.checkpoint_id is not None
    checkpoints.drop_finished(workshop.engine)
    ((checkpoint, _),) = checkpoints.list_with_files(workshop.engine, job_id)
    assert checkpoint.step >= 2


def test_cancel_ends_a_trainer_that_does_not_pause(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "deaf", "fault_step": 1})
    with workshop.running_pool(drain_seconds=600):
        workshop.wait_step(job_id)
        workshop.set_desired_state(job_id, DesiredState.PAUSE)
        workshop.set_desired_state(job_id, DesiredState.CANCEL)
        workshop.wait(job_id, "cancelled")


def test_paused_job_resumes_exactly_from_its_checkpoint(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"steps": 150, "step_ms": 50, "checkpoint_steps": 9999})
    with workshop.running_pool():
        workshop.wait_step(job_id, 3)
        workshop.set_desired_state(job_id, DesiredState.PAUSE)
        paused = workshop.wait(job_id, "paused")
        assert not workshop.trainers()  # the device is free
        workshop.hurry()
        workshop.set_desired_state(job_id, DesiredState.RUN)
        job = workshop.wait(job_id, "succeeded")
    assert paused.checkpoint_id is not None
    assert (job.attempt, job.failures, job.crashes) == (2, 0, 0)
    assert workshop.adapter(job_id) == workshop.expected(150)


def test_trainer_that_does_not_stop_is_killed_after_the_drain(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "deaf", "fault_step": 4})
    with workshop.running_pool(drain_seconds=1):
        workshop.wait_step(job_id, 4)
        workshop.set_desired_state(job_id, DesiredState.PAUSE)
        job = workshop.wait(job_id, "paused")
    assert job.checkpoint_id is not None  # of step 3
    assert job.failures == 0


def test_run_that_finishes_before_it_pauses_is_published(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "linger", "fault_step": 99})
    with workshop.running_pool(drain_seconds=2):
        workshop.wait_step(job_id, 5)
        workshop.set_desired_state(job_id, DesiredState.PAUSE)
        job = workshop.wait(job_id, "succeeded", "paused")
    assert job.status == "succeeded"
    assert workshop.adapter(job_id) == workshop.expected()


@pytest.mark.parametrize(("asked", "quota"), [(3, 3600), (3600, 3)])
def test_job_over_its_runtime_is_timed_out(workshop: Workshop, asked: int, quota: int) -> None:
    job_id = workshop.submit(
        metadata={"fault": "deaf", "fault_step": 1}, resources={"max_runtime_seconds": asked}
    )
    workshop.settings = workshop.settings.model_copy(update={"quota_runtime_seconds": quota})
    with workshop.running_pool():
        job = workshop.wait(job_id, "failed")
    assert job.failure_code == "timed_out"


def test_cancel_does_not_wait_for_a_download(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    never = threading.Event()
    monkeypatch.setattr(job_inputs, "fetch_base_model", lambda *_: never.wait(600))
    job_id = workshop.submit()
    with workshop.running_pool():
        workshop.wait(job_id, "running")
        workshop.set_desired_state(job_id, DesiredState.CANCEL)
        workshop.wait(job_id, "cancelled")
    never.set()


# -- faults of the environment ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EROFS, "host_error"), (errno.EMFILE, "host_error")],
)
def test_machine_error_is_typed_and_avoids_the_host(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(job_inputs, "write_training_inputs", fail)
    job_id = workshop.submit()
    with workshop.running_pool() as pool:
        job = workshop.wait(job_id, "failed")
        queue = workshop.settings.queue
        wait_until("the worker to stop", lambda: pool._state(queue) == "unhealthy")
    assert (job.failure_code, job.failures) == (code, 3)
    assert job.avoid_host


def test_plan_of_another_version_is_left_to_another_host(workshop: Workshop) -> None:
    job_id = workshop.submit()
    plan = (workshop.read_job(job_id).plan or {}) | {"version": 2}
    with transaction(workshop.engine) as session:
        session.execute(update(Job).where(Job.id == job_id).values(plan=plan))
    with workshop.running_pool():
        job = workshop.wait(job_id, "failed")
    assert (job.failure_code, job.failures) == ("host_error", 3)
    assert job.avoid_host


def test_adapter_over_the_limit_is_typed(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"checkpoint_steps": 9999})
    with workshop.running_pool(max_artifact_bytes=1000):
        job = workshop.wait(job_id, "failed")
    assert job.failure_code == "artifact_too_large"
    with transaction(workshop.engine) as session:
        assert session.scalar(select(func.count()).select_from(Adapter)) == 0


def test_merge_of_a_deleted_adapter_fails_with_the_reason(workshop: Workshop) -> None:
    trained = workshop.read_job(workshop.submit())
    workshop.set_desired_state(trained.id, DesiredState.CANCEL)  # before it has an adapter
    with transaction(workshop.engine) as session:
        merge = transitions.insert_job(
            session,
            Job(
                id=new_id("job"),
                tenant_id=trained.tenant_id,
                kind=kinds.MERGE.name,
                queue=trained.queue,
                spec=trained.spec,
                spec_sha256=trained.spec_sha256,
                plan=trained.plan,
                base_model=trained.base_model,
                parent_job_id=trained.id,
            ),
        ).id
    with workshop.running_pool():
        job = workshop.wait(merge, "succeeded", "failed")
    assert (job.failure_code, job.failures) == ("invalid_spec", 1)
    assert "was deleted before" in (job.failure_detail or "")


def paused_job(workshop: Workshop) -> str:
    """Return a paused job of 150 steps with several checkpoints."""
    job_id = workshop.submit(metadata={"steps": 150, "step_ms": 50, "checkpoint_steps": 3})
    with workshop.running_pool():
        workshop.wait_step(job_id, 8)
        workshop.set_desired_state(job_id, DesiredState.PAUSE)
        workshop.wait(job_id, "paused")
    workshop.hurry()
    return job_id


def starts(workshop: Workshop) -> list[str]:
    """Return the step at which each trainer started."""
    recorded = (workshop.directory / "models" / "record").read_text().splitlines()
    return [line.split()[5] for line in recorded if " start " in line]


def test_damaged_checkpoint_is_skipped_for_the_previous_one(workshop: Workshop) -> None:
    job_id = paused_job(workshop)
    (newest, files), (before, _) = checkpoints.list_with_files(workshop.engine, job_id)
    with transaction(workshop.engine) as session:
        blob = next(f.blob_id for f in files if f.name == "optimizer.pt")
        session.execute(
            update(BlobChunk).where(BlobChunk.blob_id == blob).values(data=b"x" * 160_000)
        )
        assert session.scalar(select(func.count()).where(StoredFile.blob_id == blob)) == 1
    workshop.set_desired_state(job_id, DesiredState.RUN)
    with capture_logs() as said, workshop.running_pool():
        workshop.wait(job_id, "succeeded")
    (refused,) = (line for line in said if line["event"] == "checkpoint_refused")
    assert (refused["job_id"], refused["attempt"], refused["step"]) == (job_id, 2, newest.step)
    assert starts(workshop) == ["0", str(before.step)]
    assert newest.step > before.step
    assert workshop.adapter(job_id) == workshop.expected(150)


def test_checkpoint_with_another_fingerprint_is_skipped_for_the_previous_one(
    workshop: Workshop,
) -> None:
    job_id = paused_job(workshop)
    (newest, files), (before, _) = checkpoints.list_with_files(workshop.engine, job_id)
    with transaction(workshop.engine) as session:
        manifest = next(f for f in files if f.name == MANIFEST)
        other = b'{"same": {"engine": "other"}}'
        session.execute(
            update(BlobChunk).where(BlobChunk.blob_id == manifest.blob_id).values(data=other)
        )
        session.execute(
            update(StoredFile)
            .where(StoredFile.owner_id == newest.id, StoredFile.name == MANIFEST)
            .values(sha256=hashlib.sha256(other).hexdigest(), size=len(other))
        )
    workshop.set_desired_state(job_id, DesiredState.RUN)
    with workshop.running_pool():
        workshop.wait(job_id, "succeeded")
    assert starts(workshop) == ["0", str(before.step)]
    assert workshop.adapter(job_id) == workshop.expected(150)


def test_short_database_outage_costs_no_attempt(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"steps": 150, "step_ms": 50})
    with capture_logs() as said, workshop.running_pool() as pool:
        workshop.wait_step(job_id, 2)
        is_away = True

        @event.listens_for(pool.engine, "before_cursor_execute")
        def _fail(*_: Any) -> None:
            if is_away:
                raise OperationalError("SELECT", {}, Exception("the database is starting up"))

        wait_until("a second to pass", _after(1.5))
        is_away = False
        workshop.hurry()
        job = workshop.wait(job_id, "succeeded")
    assert (job.attempt, job.failures, job.crashes) == (1, 0, 0)
    away = [line for line in said if line["event"] == "database_away"]
    assert {(line["job_id"], line["attempt"]) for line in away} == {(job_id, 1)}
    assert workshop.adapter(job_id) == workshop.expected(150)


def test_long_database_outage_ends_the_trainer_before_the_lease(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(metadata={"steps": 100_000, "step_ms": 50})
    with workshop.running_pool() as pool:
        workshop.wait_step(job_id, 2)
        is_away = True

        @event.listens_for(pool.engine, "before_cursor_execute")
        def _fail(*_: Any) -> None:
            if is_away:
                raise OperationalError("SELECT", {}, Exception("the database is gone"))

        wait_until("the trainer to be gone", lambda: not workshop.trainers())
        assert workshop.read_job(job_id).status == "running"  # the lease has not ended yet
        pool.draining.set()
        is_away = False


def _after(seconds: float) -> Any:
    import time

    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until
