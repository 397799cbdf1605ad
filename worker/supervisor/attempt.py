"""One attempt at a job: its data, its limits, and the errors that end it early."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from app.job_queue import kinds
from app.job_queue.kinds import JobKind
from app.job_queue.lease import Lease, LeaseLostError, WriteContext
from app.models import Job
from worker.supervisor.devices import Device
from worker.supervisor.lease_renewer import LeaseRenewer, retry_until_database_up
from worker.supervisor.trainer_process import Spawn

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one trainer process on this machine."""

    name: str
    #: Descriptor of the slot's lock. Trainers inherit it, so the slot is free only when the
    #: supervisor and the trainer are gone.
    lock: int
    device: Device | None


class JobFailedError(Exception):
    """The attempt ends with a typed failure."""

    #: The action of the trainer that failed; None when no trainer ran.
    action: str | None = None

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.step = code, detail, step


class AttemptInterruptedError(Exception):
    """The job's owner or a drain ended the attempt; a checkpoint may have been saved."""


@dataclass(frozen=True)
class Attempt:
    """A claimed job, its lease, and the inputs of its trainer."""

    job: Job
    write_context: WriteContext
    lease_renewer: LeaseRenewer
    spawn: Spawn
    slot: Slot
    started_at: float = field(default_factory=time.monotonic)

    @property
    def engine(self) -> Engine:
        """The database."""
        return self.write_context.engine

    @property
    def settings(self) -> Settings:
        """The worker's settings."""
        return self.write_context.settings

    @property
    def lease(self) -> Lease:
        """The right to write for the job."""
        return self.write_context.lease

    @property
    def kind(self) -> JobKind:
        """The job's kind.

        Raises:
            UnknownKindError: another version of Plaudit created the job.
        """
        return kinds.get(self.job.kind)

    @property
    def directory(self) -> Path:
        """The trainer's work directory."""
        return (self.settings.work_dir / self.job.id / str(self.lease.attempt)).absolute()

    def retry_until_database_up(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``; repeat it while the database is unavailable.

        Raises:
            LeaseLostError: the database was unavailable for too long.
        """
        return retry_until_database_up(self.lease_renewer, call)

    def check_interrupt(self) -> None:
        """Raise if the attempt should end now.

        Raises:
            LeaseLostError, AttemptInterruptedError, JobFailedError
        """
        if self.lease_renewer.is_lost:
            raise LeaseLostError(self.job.id)
        if self.lease_renewer.interrupt.is_set():
            raise AttemptInterruptedError
        self.check_deadline()

    def check_deadline(self) -> None:
        """Raise JobFailedError if the job used up its runtime, over all attempts."""
        limit = self.kind.runtime_seconds(self.settings, self.job.spec)
        if time.monotonic() - self.started_at > limit - self.job.runtime_ms / 1000:
            raise JobFailedError(
                FailureCode.TIMED_OUT, f"the job ran for {limit} s, which is its limit"
            )
