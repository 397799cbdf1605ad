"""What a worker may write for its job, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update

from app.adapters import publishing
from app.core.database import now_ms
from app.core.settings import Settings
from app.domain.lifecycle import FAILURES, DesiredState, FailureCode
from app.domain.progress import Noted, Reported, Stepped
from app.domain.warnings import WarningCode
from app.job_queue import kinds, worker_api
from app.job_queue.lease import LeaseLostError, WriteContext
from app.job_queue.worker_api import AttemptFailure, Progress
from app.models import Adapter, Checkpoint, Job, JobLog, JobMetric, StoredFile
from tests.job_queue.factories import (
    claim,
    count_rows,
    events_of,
    lose_lease,
    queue_job,
    read_job,
    requeue_expired,
    save_checkpoint,
    update_job,
    write_adapter,
)
from tests.services import wait_until

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights!" * 200_000}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # it ends idle transactions
def test_sweep_takes_the_job_of_a_worker_that_froze_in_a_transaction(
    engine: Engine, settings: Settings, context: WriteContext
) -> None:
    update_job(engine, context.job_id, lease_expires_at=now_ms() - 3_600_000)
    with engine.connect() as frozen:
        limit = frozen.scalar(text("SHOW idle_in_transaction_session_timeout"))
        assert limit == "30s"  # far below a lease: the job waits for it
        frozen.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
        frozen.execute(update(Job).where(Job.id == context.job_id).values(phase="training"))
        assert not requeue_expired(engine, settings)  # skipped, not waited for
        wait_until(
            "the server to end the transaction",
            lambda: bool(requeue_expired(engine, settings)),
        )
        frozen.invalidate()
    assert read_job(engine, context.job_id).status == "queued"


def test_progress_writes_steps_notes_and_reports_in_one_transaction(
    engine: Engine, context: WriteContext
) -> None:
    warning = Noted(
        code=WarningCode.PAIRS_DROPPED, message="3 pairs were left out", is_warning=True
    )
    for step in (1, 2):
        stepped = Stepped(step=step, total_steps=4, epoch=0.5, metrics={"train/loss": 1 / step})
        report = Reported(name="memory", document={"step": step})
        worker_api.record_progress(context, Progress("training", [stepped], [warning], [report]))
    job = read_job(engine, context.job_id)
    assert (job.phase, job.step, job.total_steps, job.rate_step) == ("training", 2, 4, 1)
    assert job.warnings == [{"code": "pairs_dropped", "message": warning.message}]
    assert count_rows(engine, JobMetric) == 2
    assert [e.type for e in events_of(engine, context.job_id)].count("pairs_dropped") == 2


def test_log_piece_written_twice_is_stored_once(engine: Engine, context: WriteContext) -> None:
    for _ in range(2):  # the answer to the first commit was lost
        worker_api.record_log(context, 0, "a line\n")
    assert count_rows(engine, JobLog) == 1


def publish(context: WriteContext, directory: Path) -> object:
    return publishing.publish(context, directory, write_adapter(directory, FILES))


STEPPED = Stepped(step=1, total_steps=2, epoch=1, metrics={"train/loss": 1.0})
WRITES: dict[str, Callable[[WriteContext, Path], object]] = {
    "heartbeat": lambda context, _: worker_api.heartbeat(context),
    "progress": lambda context, _: worker_api.record_progress(context, Progress(steps=[STEPPED])),
    "log": lambda context, _: worker_api.record_log(context, 0, "late"),
    "checkpoint": lambda context, directory: save_checkpoint(context, directory, 5),
    "adapter": publish,
    "completion": lambda context, _: worker_api.complete(context, {}),
    "failure": lambda context, _: worker_api.fail(
        context, AttemptFailure(FailureCode.NAN_LOSS, "late")
    ),
    "release": lambda context, _: worker_api.release(context, "late"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_worker_without_its_lease_writes_nothing(
    engine: Engine,
    settings: Settings,
    context: WriteContext,
    tmp_path: Path,
    write: Callable[[WriteContext, Path], object],
) -> None:
    lose_lease(context)
    successor = claim(engine, settings, "host-b/0:1")
    with pytest.raises(LeaseLostError):
        write(context, tmp_path)
    assert worker_api.read_desired_state(context) is None
    assert worker_api.read_desired_state(successor) == DesiredState.RUN
    for table in (JobMetric, JobLog, Checkpoint, Adapter, StoredFile):
        assert count_rows(engine, table) == 0
    job = read_job(engine, context.job_id)
    assert (job.status, job.attempt, job.failure_code) == ("running", 2, None)
    assert worker_api.heartbeat(successor) == DesiredState.RUN


def test_completed_job_has_its_result(engine: Engine, settings: Settings) -> None:
    job_id = queue_job(engine, kind=kinds.INSPECT.name)
    worker_api.complete(claim(engine, settings), {"facts": {"a": 1}})
    job = read_job(engine, job_id)
    assert (job.status, job.result) == ("succeeded", {"facts": {"a": 1}})


@pytest.mark.parametrize("code", list(FailureCode))
def test_failure_is_retried_if_its_code_is_retryable(
    engine: Engine, context: WriteContext, code: FailureCode
) -> None:
    status = worker_api.fail(context, AttemptFailure(code, "why", step=3, avoid_host="host"))
    job = read_job(engine, context.job_id)
    assert status == job.status == ("queued" if FAILURES[code].is_retryable else "failed")
    assert (job.failure_code, job.failure_step, job.avoid_host) == (code, 3, "host")
    assert (job.failures, job.stalls) == (1, 1)


def test_failure_without_a_step_has_the_last_reported_step(
    engine: Engine, context: WriteContext
) -> None:
    steps = [Stepped(step=n, total_steps=10, epoch=n / 10, metrics={}) for n in (1, 2)]
    worker_api.record_progress(context, Progress(steps=steps))
    worker_api.fail(context, AttemptFailure(FailureCode.NAN_LOSS, "loss is nan"))
    assert read_job(engine, context.job_id).failure_step == 2
    assert events_of(engine, context.job_id)[-1].data["step"] == 2


def test_job_fails_after_max_failures(engine: Engine, settings: Settings) -> None:
    job_id = queue_job(engine)
    for number in range(settings.max_failures):
        update_job(engine, job_id, run_after=0)
        context = claim(engine, settings, f"host-a/0:{number}")
        worker_api.fail(context, AttemptFailure(FailureCode.HUB_UNAVAILABLE, "503"))
    assert read_job(engine, job_id).status == "failed"


def test_retry_delay_grows_with_failures(settings: Settings) -> None:
    longest = [
        max(worker_api.retry_delay_ms(settings, n) for _ in range(200)) for n in (0, 1, 2, 30)
    ]
    assert longest[0] <= 10_000 < longest[1] <= 20_000 < longest[2] <= 40_000
    assert 100_000 < longest[3] <= 900_000
