"""A trainer from start to end: what it says is written down, what its owner wants passed on."""

from __future__ import annotations

import queue
import time

import structlog
from pydantic import ValidationError

from app.domain.lifecycle import DesiredState, FailureCode
from app.domain.progress import MESSAGE, CheckpointSaved, Failed, Inspected, Packaged
from app.job_queue import checkpoints, kinds
from app.job_queue.lease import LeaseLostError
from app.storage.artifact_files import ArtifactDamagedError
from worker.ipc.order import EXIT_STOPPED, EXIT_WATCHDOG, ORDER_FILE, WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, AttemptInterruptedError, JobFailedError
from worker.supervisor.message_buffer import MessageBuffer
from worker.supervisor.trainer_process import TrainerProcess

log = structlog.get_logger()

#: The last message of a successful trainer; None when its task reports no result.
TrainerResult = Packaged | Inspected | None


def run_trainer(attempt: Attempt, message_buffer: MessageBuffer, order: WorkOrder) -> TrainerResult:
    """Start a trainer and hear it to its end; its last word, if it came to one.

    Raises:
        LeaseLost, Interrupted, JobFailed
    """
    (attempt.directory / ORDER_FILE).write_text(order.model_dump_json())
    lease_renewer = attempt.lease_renewer
    child = TrainerProcess(
        attempt.directory,
        attempt.spawn,
        keep=(attempt.slot.lock,),
        device=attempt.slot.device,
        memory_bytes=kinds.for_action(order.action).memory_bytes(attempt.settings),
    )
    lease_renewer.watch(child)
    result: TrainerResult = None
    failure: Failed | None = None
    stop_by: float | None = None
    try:
        while True:
            try:
                line = child.lines.get(timeout=0.25)
            except queue.Empty:
                line = b""
            if line is None:
                break
            if line:
                message = _parse(line)
                match message:
                    case Packaged() | Inspected():
                        result = message
                    case Failed():
                        failure = message
                    case CheckpointSaved():
                        # First what led to it: a resumed run does not say that again.
                        message_buffer.flush(child, force=True)
                        _store_checkpoint(attempt, message)
                    case _:
                        message_buffer.take(message)
            message_buffer.flush(child)
            stop_by = _pass_on_wishes(attempt, child, stop_by)
    finally:
        child.kill()
        lease_renewer.watch(None)
        status = child.wait()
    if lease_renewer.is_lost:
        raise LeaseLostError(attempt.job.id)
    message_buffer.flush(child, force=True)
    if stop_by is not None:
        # Asked to stop, it may have come to its end first; a cancel that it knew of counts.
        if result is None or lease_renewer.desired == DesiredState.CANCEL:
            raise AttemptInterruptedError
        return result
    if failure is not None:
        raise JobFailedError(failure.code, failure.detail, failure.step)
    if status == 0:
        return result
    raise _crash(status)


def _pass_on_wishes(attempt: Attempt, child: TrainerProcess, stop_by: float | None) -> float | None:
    """Tell the trainer what the owner wants; when it was asked to stop, by when it must be gone."""
    now = time.monotonic()
    if attempt.lease_renewer.is_lost:
        child.kill()
        return stop_by
    attempt.check_deadline()
    if not attempt.lease_renewer.interrupt.is_set():
        return None
    if stop_by is None:
        stop_by = now + attempt.settings.drain_seconds
        child.ask_to_stop()
    # A cancel may come after a pause or a drain was passed on.
    if now > stop_by or not _wants_checkpoint(attempt):
        child.kill()
    return stop_by


def _wants_checkpoint(attempt: Attempt) -> bool:
    if not attempt.kind.saves_checkpoints:
        return False
    if attempt.lease_renewer.desired != DesiredState.CANCEL:
        return True
    return attempt.retry_until_database_up(
        lambda: job_inputs.keeps_checkpoint(attempt.engine, attempt.job.id)
    )


def _store_checkpoint(attempt: Attempt, message: CheckpointSaved) -> None:
    """A checkpoint that cannot be stored is not worth ending the run for."""
    directory = attempt.directory / message.directory
    try:
        attempt.retry_until_database_up(
            lambda: checkpoints.save(attempt.write_context, directory, message)
        )
    except (ArtifactDamagedError, FileNotFoundError) as error:
        log.warning(
            "checkpoint_not_stored",
            job_id=attempt.job.id,
            attempt=attempt.lease.attempt,
            error=str(error),
        )


def _parse(line: bytes) -> object:
    try:
        # PostgreSQL stores no NUL in text.
        return MESSAGE.validate_json(line.replace(b"\\u0000", b"\\ufffd"))
    except ValidationError as error:
        raise JobFailedError(
            FailureCode.INTERNAL, f"the trainer said what this service does not know: {error}"
        ) from error


def _crash(status: int) -> JobFailedError:
    if status == EXIT_WATCHDOG:
        return JobFailedError(FailureCode.TRAINER_CRASHED, "the trainer heard nothing and went")
    if status == EXIT_STOPPED:
        return JobFailedError(FailureCode.INTERNAL, "the trainer stopped though nobody asked")
    if status < 0:
        return JobFailedError(
            FailureCode.TRAINER_CRASHED,
            f"the trainer was killed by signal {-status} (9: often the kernel, out of memory)",
        )
    return JobFailedError(FailureCode.TRAINER_CRASHED, f"the trainer exited with status {status}")
