"""Run a trainer to its end: store its messages, and pass on requests of the job's owner."""

from __future__ import annotations

import queue
import signal
import time

import structlog
from pydantic import ValidationError

from app.domain.lifecycle import DesiredState, FailureCode
from app.domain.progress import (
    MESSAGE,
    CheckpointSaved,
    Evaluated,
    Failed,
    Inspected,
    Message,
    Packaged,
    Verified,
)
from app.job_queue import checkpoints, kinds
from app.job_queue.lease import LeaseLostError
from app.storage.artifact_files import ArtifactDamagedError
from worker.ipc.order import EXIT_STOPPED, EXIT_WATCHDOG, ORDER_FILE, WorkOrder
from worker.supervisor import job_inputs
from worker.supervisor.attempt import Attempt, AttemptInterruptedError, JobFailedError
from worker.supervisor.memory_limits import memory_limit
from worker.supervisor.message_buffer import MessageBuffer
from worker.supervisor.trainer_process import ProcessLimits, TrainerProcess

log = structlog.get_logger()

#: Seconds between two checks of the lease, the deadline and the desired state.
POLL_SECONDS = 0.25
#: The last message of a successful trainer; None when its task reports no result.
TrainerResult = Packaged | Inspected | Evaluated | Verified | None


def run_trainer(attempt: Attempt, message_buffer: MessageBuffer, order: WorkOrder) -> TrainerResult:
    """Start a trainer, run it to its end and return its result.

    Raises:
        LeaseLostError, AttemptInterruptedError, JobFailedError
    """
    (attempt.directory / ORDER_FILE).write_text(order.model_dump_json())
    kind = kinds.for_action(order.action) or attempt.kind
    limits = ProcessLimits(
        memory_bytes=memory_limit(attempt.settings, kind, order, attempt.directory),
        oom_score_adj=kind.oom_score_adj,
    )
    child = TrainerProcess(
        attempt.directory,
        attempt.spawn,
        keep=(attempt.slot.lock,),
        device=attempt.slot.device,
        limits=limits,
    )
    session = _Session(attempt, message_buffer, child)
    attempt.lease_renewer.watch(child)
    try:
        session.read_messages()
    finally:
        child.kill()
        attempt.lease_renewer.watch(None)
        status = child.wait()
    if attempt.lease_renewer.is_lost:
        raise LeaseLostError(attempt.job.id)
    message_buffer.flush(child, force=True)
    try:
        return session.result_of(status)
    except JobFailedError as error:
        error.action = order.action
        raise


class _Session:
    """What is known about a running trainer."""

    def __init__(
        self, attempt: Attempt, message_buffer: MessageBuffer, child: TrainerProcess
    ) -> None:
        self._attempt, self._message_buffer, self._child = attempt, message_buffer, child
        self._result: TrainerResult = None
        self._failure: Failed | None = None
        #: Deadline for the exit of a trainer that was asked to stop.
        self._stop_by: float | None = None

    def read_messages(self) -> None:
        """Handle messages until the trainer closes its pipe."""
        while True:
            try:
                line = self._child.lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                line = b""
            if line is None:
                return
            if line:
                self._handle(_parse(line))
            self._message_buffer.flush(self._child)
            self._forward_desired_state()

    def result_of(self, status: int) -> TrainerResult:
        """Return the result of a trainer that exited with this status.

        Raises:
            AttemptInterruptedError, JobFailedError
        """
        if self._stop_by is not None:
            # The trainer may have finished before it read the request to stop. A cancel counts
            # even then.
            is_cancelled = self._attempt.lease_renewer.desired == DesiredState.CANCEL
            if self._result is None or is_cancelled:
                raise AttemptInterruptedError
            return self._result
        if self._failure is not None:
            failure = self._failure
            raise JobFailedError(failure.code, failure.detail, failure.step)
        if status == 0:
            return self._result
        raise _crash(status, ran_out_of_memory=self._child.ran_out_of_memory)

    def _handle(self, message: Message) -> None:
        match message:
            case Packaged() | Inspected() | Evaluated() | Verified():
                self._result = message
            case Failed():
                self._failure = message
            case CheckpointSaved():
                # A resumed run does not repeat the messages before its checkpoint: they go first.
                self._message_buffer.flush(self._child, force=True)
                self._store_checkpoint(message)
            case _:
                self._message_buffer.add(message)

    def _forward_desired_state(self) -> None:
        """Ask the trainer to stop if the attempt should end; kill it if it takes too long."""
        renewer = self._attempt.lease_renewer
        if renewer.is_lost:
            self._child.kill()
            return
        self._attempt.check_deadline()
        if not renewer.interrupt.is_set():
            return
        now = time.monotonic()
        if self._stop_by is None:
            self._stop_by = now + self._attempt.settings.drain_seconds
            self._child.ask_to_stop()
        # A cancel may come after a pause or a drain.
        if now > self._stop_by or not self._wants_checkpoint():
            self._child.kill()

    def _wants_checkpoint(self) -> bool:
        attempt = self._attempt
        if not attempt.kind.saves_checkpoints:
            return False
        if attempt.lease_renewer.desired != DesiredState.CANCEL:
            return True
        return attempt.retry_until_database_up(
            lambda: job_inputs.keeps_checkpoint(attempt.engine, attempt.job.id)
        )

    def _store_checkpoint(self, message: CheckpointSaved) -> None:
        """Store a checkpoint; the run continues without it if its files are damaged or gone."""
        attempt = self._attempt
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


def _parse(line: bytes) -> Message:
    try:
        # PostgreSQL stores no NUL in text.
        return MESSAGE.validate_json(line.replace(b"\\u0000", b"\\ufffd"))
    except ValidationError as error:
        raise JobFailedError(
            FailureCode.INTERNAL, f"the trainer sent an unknown message: {error}"
        ) from error


def _crash(status: int, *, ran_out_of_memory: bool) -> JobFailedError:
    if ran_out_of_memory:
        return JobFailedError(FailureCode.OUT_OF_MEMORY, "the trainer exceeded its memory limit")
    if status == -signal.SIGXCPU:
        return JobFailedError(
            FailureCode.MODEL_UNSUPPORTED,
            "the base model's tokenizer exceeded its limit of CPU time",
        )
    if status == EXIT_WATCHDOG:
        return JobFailedError(
            FailureCode.TRAINER_CRASHED, "the trainer exited: it received no keep-alive"
        )
    if status == EXIT_STOPPED:
        return JobFailedError(
            FailureCode.INTERNAL, "the trainer stopped, but the supervisor had not asked it to"
        )
    if status < 0:
        return JobFailedError(
            FailureCode.TRAINER_CRASHED,
            f"the trainer was killed by signal {-status}",
        )
    return JobFailedError(FailureCode.TRAINER_CRASHED, f"the trainer exited with status {status}")
