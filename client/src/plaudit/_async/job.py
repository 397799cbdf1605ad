"""A job as an object with methods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self, Unpack

from pydantic import PrivateAttr

from plaudit import params
from plaudit._model import without_client
from plaudit.errors import JobFailedError
from plaudit.metrics import Metrics
from plaudit.models import CheckpointRead, EventRead, JobItem, JobRead, LogPiece

if TYPE_CHECKING:
    from plaudit._async.following import OnProgress
    from plaudit._async.jobs import AsyncJobs


class AsyncJob(JobRead):
    """A job. ``refresh``, ``wait`` and the methods that change the job update this object.

    An unpickled job has no client; ``bound(client.jobs)`` attaches one.
    """

    _jobs: AsyncJobs = PrivateAttr()

    def __getstate__(self) -> dict[Any, Any]:
        return without_client(super().__getstate__())

    def bound(self, jobs: AsyncJobs) -> Self:
        """Attach the job to the client that its methods use, and return it."""
        self._jobs = jobs
        return self

    async def refresh(self) -> Self:
        """Get the job's current state from the service."""
        return self._replace_state(await self._jobs.get(self.id))

    async def wait(
        self, *, progress: bool | OnProgress = False, timeout: float | None = None
    ) -> Self:
        """Wait until the job has ended or is paused; see ``client.jobs.wait``."""
        job = await self._jobs.wait(self.id, progress=progress, timeout=timeout)
        return self._replace_state(job)

    def raise_for_status(self) -> Self:
        """Return the job if it succeeded.

        Raises:
            JobFailedError: the job did not succeed. The message says why, and ``hint`` what to do.
        """
        if self.status == "succeeded":
            return self
        if self.failure is not None:
            raise JobFailedError(f"{self.id} failed: {self.failure.detail}", self)
        raise JobFailedError(f"{self.id} is {self.status}.", self)

    async def cancel(self, *, keep_checkpoint: bool = False) -> Self:
        """Cancel the job; see ``client.jobs.cancel``."""
        job = await self._jobs.cancel(self.id, keep_checkpoint=keep_checkpoint)
        return self._replace_state(job)

    async def pause(self) -> Self:
        """Pause the job; a running job saves a checkpoint first."""
        return self._replace_state(await self._jobs.pause(self.id))

    async def resume(self) -> Self:
        """Queue the paused job again; it continues from its checkpoint."""
        return self._replace_state(await self._jobs.resume(self.id))

    async def update(self, **changes: Unpack[params.JobUpdate]) -> Self:
        """Change the name, the metadata, the notes or, while the job is queued, the priority."""
        return self._replace_state(await self._jobs.update(self.id, **changes))

    async def clone(
        self, *, idempotency_key: str | None = None, **changes: Unpack[params.JobClone]
    ) -> AsyncJob:
        """Queue a new job with this job's spec; see ``client.jobs.clone``."""
        return await self._jobs.clone(self.id, idempotency_key=idempotency_key, **changes)

    async def delete(self) -> None:
        """Delete the finished job with its adapter, checkpoints, events, metrics and logs."""
        await self._jobs.delete(self.id)

    def events(self, *, after: int = 0, follow: bool = True) -> AsyncIterator[EventRead]:
        """Yield the events of the job; see ``client.jobs.events``."""
        return self._jobs.events(self.id, after=after, follow=follow)

    def logs(self, *, tail: int | None = None, follow: bool = False) -> AsyncIterator[LogPiece]:
        """Yield the output of the trainer; see ``client.jobs.logs``."""
        return self._jobs.logs(self.id, tail=tail, follow=follow)

    async def metrics(self, keys: str | None = None) -> Metrics:
        """Return the metrics of the job. ``client.jobs.metrics`` also takes a range of steps."""
        return await self._jobs.metrics(self.id, keys=keys)

    async def checkpoints(self) -> list[CheckpointRead]:
        """Return the checkpoints that the service keeps, newest first."""
        return await self._jobs.checkpoints(self.id)

    async def report(self, name: str) -> dict[str, Any]:
        """Return a report of the job: ``estimate``, ``dataset``, ``memory`` or ``worst_pairs``."""
        return await self._jobs.report(self.id, name)

    async def worst_pairs(self) -> list[dict[str, Any]]:
        """Return the held-out pairs with the most negative margins, worst first, by line number."""
        return await self._jobs.worst_pairs(self.id)

    def _replace_state(self, other: AsyncJob) -> Self:
        jobs = self._jobs
        self.__setstate__(other.__getstate__())
        return self.bound(jobs)


class AsyncListedJob(JobItem):
    """An item of a list of jobs, without spec and plan."""

    _jobs: AsyncJobs = PrivateAttr()

    def __getstate__(self) -> dict[Any, Any]:
        return without_client(super().__getstate__())

    def bound(self, jobs: AsyncJobs) -> Self:
        """Attach the item to the client that its methods use, and return it."""
        self._jobs = jobs
        return self

    async def get(self) -> AsyncJob:
        """Get the job with all fields."""
        return await self._jobs.get(self.id)
