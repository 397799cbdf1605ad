"""Training jobs: create, follow and control them; ``client.jobs``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self, TypedDict, Unpack, overload

from plaudit import params
from plaudit._async import following
from plaudit._async.following import OnProgress
from plaudit._async.job import AsyncJob, AsyncListedJob
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit.metrics import Metrics
from plaudit.models import (
    CheckpointRead,
    EventRead,
    FullReport,
    JobPreview,
    JobReportRead,
    LogPiece,
    RewardJobSpec,
)

Spec = params.RewardJobSpec | RewardJobSpec | Mapping[str, Any]
# Aliases, because inside the class ``list`` is a method.
Checkpoints = list[CheckpointRead]
Pairs = list[dict[str, Any]]


class JobFilter(TypedDict, total=False):
    """Which jobs a list has; None means any."""

    status: str | None
    name: str | None
    base_model: str | None
    metadata: Mapping[str, str] | None
    q: str | None


class AsyncJobs:
    """Training jobs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self  # a copy of a job uses the same connections

    @overload
    async def create(self, spec: Spec, /, *, idempotency_key: str | None = None) -> AsyncJob: ...
    @overload
    async def create(
        self, *, idempotency_key: str | None = None, **fields: Unpack[params.RewardJobSpec]
    ) -> AsyncJob: ...
    async def create(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a job, from a spec or from the fields of a spec as keyword arguments.

        All attempts of one call send the same idempotency key, so that a retry never creates a
        second job. Pass ``idempotency_key`` to repeat the call from another process; the service
        remembers a key for 24 hours.

        Raises:
            InvalidRequestError: the spec is invalid; ``errors`` names the fields.
            QuotaExceededError: the limit of queued jobs is reached.
            TypeError: both a spec and fields are given.
        """
        return await self._create("/v1/jobs", _body(spec, fields), idempotency_key)

    @overload
    async def preview(self, spec: Spec, /) -> JobPreview: ...
    @overload
    async def preview(self, **fields: Unpack[params.RewardJobSpec]) -> JobPreview: ...
    async def preview(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, **fields: Any
    ) -> JobPreview:
        """Return the plan for a spec without creating a job (a dry run).

        Raises:
            InvalidRequestError: the spec is invalid; ``errors`` names the fields.
            TypeError: both a spec and fields are given.
        """
        call = Call("POST", "/v1/jobs", {"dry_run": True}, body=_body(spec, fields))
        return parse(JobPreview, await self._transport.send(call))

    async def get(self, job_id: str) -> AsyncJob:
        """Return a job."""
        return await self._job(Call("GET", path("/v1/jobs/{}", job_id)))

    def list(
        self,
        *,
        page_size: int = PAGE_SIZE,
        after: str | None = None,
        **wanted: Unpack[JobFilter],
    ) -> AsyncItems[AsyncListedJob]:
        """List jobs, newest first, without spec and plan. Iterating requests further pages as
        needed.

        Args:
            page_size: items per request, 1 to 100.
            after: only jobs that follow this id in the list.
            wanted: only jobs with this ``status``, exactly this ``name``, this ``base_model``, all
                of these ``metadata`` values, or ``q`` as a part of the name, the id or the base
                model, in any letter case.
        """
        query: dict[str, object] = {**wanted, "limit": page_size, "after": after}
        metadata = wanted.get("metadata") or {}
        query.pop("metadata", None)
        query |= {f"metadata[{key}]": value for key, value in metadata.items()}
        call = Call("GET", "/v1/jobs", query)
        return AsyncItems(self._transport, call, AsyncListedJob, lambda item: item.bound(self))

    async def update(self, job_id: str, **changes: Unpack[params.JobUpdate]) -> AsyncJob:
        """Change the name, the metadata, the notes or, while the job is queued, the priority."""
        return await self._job(Call("PATCH", path("/v1/jobs/{}", job_id), body=changes))

    async def cancel(self, job_id: str, *, keep_checkpoint: bool = False) -> AsyncJob:
        """Cancel a job. It cannot be resumed. A running job stops after its current step.

        With ``keep_checkpoint`` the job keeps its checkpoint, so that a clone can continue from it.
        """
        body: params.JobCancel = {"keep_checkpoint": keep_checkpoint}
        return await self._job(Call("POST", path("/v1/jobs/{}/cancel", job_id), body=body))

    async def pause(self, job_id: str) -> AsyncJob:
        """Pause a job. A running job saves a checkpoint and frees its device."""
        return await self._job(Call("POST", path("/v1/jobs/{}/pause", job_id)))

    async def resume(self, job_id: str) -> AsyncJob:
        """Queue a paused job again. It continues from its checkpoint."""
        return await self._job(Call("POST", path("/v1/jobs/{}/resume", job_id)))

    async def clone(
        self,
        job_id: str,
        *,
        idempotency_key: str | None = None,
        **changes: Unpack[params.JobClone],
    ) -> AsyncJob:
        """Queue a new job with the spec of another job.

        ``overrides={"training": {"learning_rate": 5e-5}}`` is merged into the spec;
        ``from_checkpoint=True`` continues from the last checkpoint. Retries send the same
        idempotency key, as in ``create``.
        """
        return await self._create(path("/v1/jobs/{}/clone", job_id), changes, idempotency_key)

    async def delete(self, job_id: str) -> None:
        """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
        await self._transport.send(Call("DELETE", path("/v1/jobs/{}", job_id)))

    async def wait(
        self, job_id: str, *, progress: bool | OnProgress = False, timeout: float | None = None
    ) -> AsyncJob:
        """Wait until the job has ended or is paused, and return it.

        Waiting continues across restarts of the service, up to ``Retries.outage_seconds``.

        Args:
            job_id: ``job_…``
            progress: True shows the progress on stderr; a function is called with the job's
                current state and again after every change.
            timeout: maximum time to wait in seconds; None: no limit.

        Raises:
            WaitTimeoutError: the job has not ended after ``timeout`` seconds. The job continues.
        """
        return await following.wait(
            self._transport, self._bound, job_id, progress=progress, timeout=timeout
        )

    def events(
        self, job_id: str, *, after: int = 0, follow: bool = True
    ) -> AsyncIterator[EventRead]:
        """Yield the events of a job, in order and without gaps.

        Args:
            job_id: ``job_…``
            after: only events with an ``id`` above this number.
            follow: also yield new events until the job ends. A lost connection is resumed after
                the last event. False: only events that have already happened.
        """
        address = path("/v1/jobs/{}/events", job_id)
        return following.events(self._transport, address, after, follow=follow)

    def logs(
        self,
        job_id: str,
        *,
        after: str | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogPiece]:
        """Yield the output of the trainer in pieces, oldest first.

        Args:
            job_id: ``job_…``
            after: only pieces after the one with this ``id``.
            tail: start with this many of the last pieces (1 to 1000); ``after`` is then ignored.
            follow: also yield new output until the job has ended or is paused.
        """
        return following.logs(self._transport, job_id, after, tail, follow=follow)

    async def metrics(
        self,
        job_id: str,
        *,
        keys: str | None = None,
        from_step: int = 0,
        to_step: int | None = None,
        resolution: int | None = None,
    ) -> Metrics:
        """Return the metrics of a job.

        Args:
            job_id: ``job_…``
            keys: names separated by commas (``"train/loss,eval/accuracy"``); None: all.
            from_step: the first step.
            to_step: the last step; None: the newest.
            resolution: maximum number of points, 1 to 5000; more steps are averaged. None: 500.
        """
        query = {"keys": keys, "from_step": from_step, "to_step": to_step, "resolution": resolution}
        call = Call("GET", path("/v1/jobs/{}/metrics", job_id), query)
        return parse(Metrics, await self._transport.send(call))

    async def checkpoints(self, job_id: str) -> Checkpoints:
        """Return the checkpoints that the service keeps, newest first."""
        call = Call("GET", path("/v1/jobs/{}/checkpoints", job_id))
        return (await AsyncItems(self._transport, call, CheckpointRead).page()).data

    async def full_report(self, job_id: str) -> FullReport:
        """Return the content of a job's report page, with its plots (SVG)."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.json", job_id))
        return parse(FullReport, await self._transport.send(call))

    async def report_page(self, job_id: str) -> str:
        """Return the report of a job as one self-contained HTML page."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.html", job_id))
        return (await self._transport.send(call)).text

    async def report(self, job_id: str, name: str) -> dict[str, Any]:
        """Return a report of a job: ``estimate``, ``dataset``, ``memory`` or ``worst_pairs``.

        Raises:
            NotFoundError: the job has no such report, or not yet.
        """
        call = Call("GET", path("/v1/jobs/{}/reports/{}", job_id, name))
        return parse(JobReportRead, await self._transport.send(call)).document

    async def worst_pairs(self, job_id: str) -> Pairs:
        """Return the held-out pairs with the most negative margins, worst first, by line number."""
        document = await self.report(job_id, "worst_pairs")
        pairs: Pairs = document["pairs"]
        return pairs

    async def _create(self, address: str, body: object, key: str | None) -> AsyncJob:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return await self._job(Call("POST", address, body=body, headers=headers))

    async def _job(self, call: Call) -> AsyncJob:
        return self._bound(parse(AsyncJob, await self._transport.send(call)))

    def _bound(self, job: AsyncJob) -> AsyncJob:
        return job.bound(self)


def _body(spec: Spec | None, fields: dict[str, Any]) -> object:
    if spec is None:
        return fields
    if fields:
        raise TypeError(f"Pass a spec or its fields, not both: {', '.join(sorted(fields))}.")
    return spec
