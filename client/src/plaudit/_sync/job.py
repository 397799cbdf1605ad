# Generated from ../_async/job.py by `make client-models`. Do not edit.
"""One job, with what can be done to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, Unpack

from pydantic import PrivateAttr

from plaudit import params
from plaudit.errors import JobFailedError
from plaudit.metrics import Metrics
from plaudit.models import CheckpointRead, EventRead, JobItem, JobRead, LogPiece

if TYPE_CHECKING:
    from plaudit._sync.following import OnProgress
    from plaudit._sync.jobs import Jobs


class Job(JobRead):
    """A job. ``refresh``, ``wait`` and what steers it also update this object."""

    _jobs: Jobs = PrivateAttr()

    def bound(self, jobs: Jobs) -> Self:
        """This job, of that client."""
        self._jobs = jobs
        return self

    def refresh(self) -> Self:
        """Read the job again."""
        return self._become(self._jobs.get(self.id))

    def wait(self, *, progress: bool | OnProgress = False, timeout: float | None = None) -> Self:
        """Wait until the job ended or is paused; see ``client.jobs.wait``."""
        return self._become(self._jobs.wait(self.id, progress=progress, timeout=timeout))

    def raise_for_status(self) -> Self:
        """This job, if it succeeded.

        Raises:
            JobFailedError: it did not; its message and ``hint`` say why and what to do.
        """
        if self.status == "succeeded":
            return self
        if self.failure is not None:
            raise JobFailedError(f"{self.id} failed: {self.failure.detail}", self)
        raise JobFailedError(f"{self.id} is {self.status}.", self)

    def cancel(self, *, keep_checkpoint: bool = False) -> Self:
        """Stop the job for good."""
        job = self._jobs.cancel(self.id, keep_checkpoint=keep_checkpoint)
        return self._become(job)

    def pause(self) -> Self:
        """Put the job aside, with a checkpoint if it runs."""
        return self._become(self._jobs.pause(self.id))

    def resume(self) -> Self:
        """Queue the paused job again."""
        return self._become(self._jobs.resume(self.id))

    def update(self, **changes: Unpack[params.JobUpdate]) -> Self:
        """Change name, metadata, notes or, while the job waits, priority."""
        return self._become(self._jobs.update(self.id, **changes))

    def clone(
        self, *, idempotency_key: str | None = None, **changes: Unpack[params.JobClone]
    ) -> Job:
        """Queue a new job with this job's spec; see ``client.jobs.clone``."""
        return self._jobs.clone(self.id, idempotency_key=idempotency_key, **changes)

    def delete(self) -> None:
        """Delete the finished job with all that it made."""
        self._jobs.delete(self.id)

    def events(self, *, after: int = 0, follow: bool = True) -> Iterator[EventRead]:
        """What happens to the job; see ``client.jobs.events``."""
        return self._jobs.events(self.id, after=after, follow=follow)

    def logs(self, *, tail: int | None = None, follow: bool = False) -> Iterator[LogPiece]:
        """The trainer's own output; see ``client.jobs.logs``."""
        return self._jobs.logs(self.id, tail=tail, follow=follow)

    def metrics(self, keys: str | None = None) -> Metrics:
        """Metrics by column; ``client.jobs.metrics`` takes a range of steps as well."""
        return self._jobs.metrics(self.id, keys=keys)

    def checkpoints(self) -> list[CheckpointRead]:
        """The checkpoints that are kept, newest first."""
        return self._jobs.checkpoints(self.id)

    def report(self, name: str) -> dict[str, Any]:
        """``estimate``, ``dataset``, ``memory`` or ``worst_pairs``."""
        return self._jobs.report(self.id, name)

    def worst_pairs(self) -> list[dict[str, Any]]:
        """The most confidently wrong held-out pairs, worst first, by their line."""
        return self._jobs.worst_pairs(self.id)

    def _become(self, other: Job) -> Self:
        self.__setstate__(other.__getstate__())
        return self


class ListedJob(JobItem):
    """A job in a list, without spec and plan."""

    _jobs: Jobs = PrivateAttr()

    def bound(self, jobs: Jobs) -> Self:
        """This item, of that client."""
        self._jobs = jobs
        return self

    def get(self) -> Job:
        """The job with everything."""
        return self._jobs.get(self.id)
