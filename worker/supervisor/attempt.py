"""One attempt at a job: what all who work on it share, and the ways in which it can end early."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from app.core.settings import Settings
from app.domain.lifecycle import FailureCode, JobKind
from app.domain.spec import Resources
from app.job_queue.transitions import Lease, LeaseLostError
from app.models import Job
from worker.supervisor.devices import Device
from worker.supervisor.lease_renewer import LeaseRenewer, retry_until_database_up
from worker.supervisor.trainer_process import Spawn

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one trainer, with a lock file's descriptor and the GPU that it may use."""

    name: str
    lock: int  # inherited by the trainer: the slot is free only when both are gone
    device: Device | None


class JobFailedError(Exception):
    """The attempt ends with a typed failure."""

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.step = code, detail, step


class AttemptInterruptedError(Exception):
    """The job's owner or a drain ended the attempt; a checkpoint may have been saved."""


@dataclass(frozen=True)
class Attempt:
    """A claimed job, the right to write for it, and where it is worked on."""

    engine: Engine
    settings: Settings
    spawn: Spawn
    slot: Slot
    keeper: LeaseRenewer
    job: Job
    lease: Lease
    started_at: float = field(default_factory=time.monotonic)

    @property
    def directory(self) -> Path:
        """The trainer's work directory."""
        return (self.settings.work_dir / self.job.id / str(self.lease.attempt)).absolute()

    @property
    def held(self) -> tuple[Engine, Settings, Lease]:
        """What every fenced write takes."""
        return self.engine, self.settings, self.lease

    def answered(self, call: Callable[[], T]) -> T:
        """What the database says, once it can be reached; LeaseLost when that takes too long."""
        return retry_until_database_up(self.keeper, call)

    def check_interrupt(self) -> None:
        """Go on only if nobody wants this attempt to end.

        Raises:
            LeaseLost, Interrupted, JobFailed
        """
        if self.keeper.is_lost:
            raise LeaseLostError(self.job.id)
        if self.keeper.interrupt.is_set():
            raise AttemptInterruptedError
        self.check_deadline()

    def check_deadline(self) -> None:
        """JobFailed when the job ran for as long as it may, in all attempts together."""
        limit = self._runtime_limit()
        if time.monotonic() - self.started_at > limit - self.job.runtime_ms / 1000:
            raise JobFailedError(
                FailureCode.TIMED_OUT, f"it ran for {limit} s, which is all it may"
            )

    def _runtime_limit(self) -> int:
        if self.job.kind == JobKind.PREFLIGHT:
            return self.settings.preflight_seconds
        # The row holds what was asked, without the defaults.
        asked = self.job.spec.get("resources", {})
        wanted = Resources.model_validate(asked).max_runtime_seconds
        return min(wanted, self.settings.quota_runtime_seconds)
