# Generated from ../_async/jobs.py by `make client-models`. Do not edit.
"""Training jobs: create, follow and control them; ``client.jobs``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Self, TypedDict, Unpack, overload

from plaudit import params
from plaudit._calls import Call, parse, path
from plaudit._sync import following
from plaudit._sync.following import OnProgress
from plaudit._sync.job import Job, ListedJob
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
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


class Jobs:
    """Training jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self  # a copy of a job uses the same connections

    @overload
    def create(self, spec: Spec, /, *, idempotency_key: str | None = None) -> Job: ...
    @overload
    def create(
        self, *, idempotency_key: str | None = None, **fields: Unpack[params.RewardJobSpec]
    ) -> Job: ...
    def create(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a job, from a spec or from the fields of a spec as keyword arguments.

        All attempts of one call send the same idempotency key, so that a retry never creates a
        second job. Pass ``idempotency_key`` to repeat the call from another process; the service
        remembers a key for 24 hours.

        Raises:
            InvalidRequestError: the spec is invalid; ``errors`` names the fields.
            QuotaExceededError: the limit of queued jobs is reached.
            TypeError: both a spec and fields are given.
        """
        return self._create("/v1/jobs", _body(spec, fields), idempotency_key)

    @overload
    def preview(self, spec: Spec, /) -> JobPreview: ...
    @overload
    def preview(self, **fields: Unpack[params.RewardJobSpec]) -> JobPreview: ...
    def preview(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, **fields: Any
    ) -> JobPreview:
        """Return the plan for a spec without creating a job (a dry run).

        Raises:
            InvalidRequestError: the spec is invalid; ``errors`` names the fields.
            TypeError: both a spec and fields are given.
        """
        call = Call("POST", "/v1/jobs", {"dry_run": True}, body=_body(spec, fields))
        return parse(JobPreview, self._transport.send(call))

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return self._job(Call("GET", path("/v1/jobs/{}", job_id)))

    def list(
        self,
        *,
        page_size: int = PAGE_SIZE,
        after: str | None = None,
        **wanted: Unpack[JobFilter],
    ) -> Items[ListedJob]:
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
        return Items(self._transport, call, ListedJob, lambda item: item.bound(self))

    def update(self, job_id: str, **changes: Unpack[params.JobUpdate]) -> Job:
        """Change the name, the metadata, the notes or, while the job is queued, the priority."""
        return self._job(Call("PATCH", path("/v1/jobs/{}", job_id), body=changes))

    def cancel(self, job_id: str, *, keep_checkpoint: bool = False) -> Job:
        """Cancel a job. It cannot be resumed. A running job stops after its current step.

        With ``keep_checkpoint`` the job keeps its checkpoint, so that a clone can continue from it.
        """
        body: params.JobCancel = {"keep_checkpoint": keep_checkpoint}
        return self._job(Call("POST", path("/v1/jobs/{}/cancel", job_id), body=body))

    def pause(self, job_id: str) -> Job:
        """Pause a job. A running job saves a checkpoint and frees its device."""
        return self._job(Call("POST", path("/v1/jobs/{}/pause", job_id)))

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again. It continues from its checkpoint."""
        return self._job(Call("POST", path("/v1/jobs/{}/resume", job_id)))

    def clone(
        self,
        job_id: str,
        *,
        idempotency_key: str | None = None,
        **changes: Unpack[params.JobClone],
    ) -> Job:
        """Queue a new job with the spec of another job.

        ``overrides={"training": {"learning_rate": 5e-5}}`` is merged into the spec;
        ``from_checkpoint=True`` continues from the last checkpoint. Retries send the same
        idempotency key, as in ``create``.
        """
        return self._create(path("/v1/jobs/{}/clone", job_id), changes, idempotency_key)

    def delete(self, job_id: str) -> None:
        """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
        self._transport.send(Call("DELETE", path("/v1/jobs/{}", job_id)))

    def wait(
        self, job_id: str, *, progress: bool | OnProgress = False, timeout: float | None = None
    ) -> Job:
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
        return following.wait(
            self._transport, self._bound, job_id, progress=progress, timeout=timeout
        )

    def events(self, job_id: str, *, after: int = 0, follow: bool = True) -> Iterator[EventRead]:
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
    ) -> Iterator[LogPiece]:
        """Yield the output of the trainer in pieces, oldest first.

        Args:
            job_id: ``job_…``
            after: only pieces after the one with this ``id``.
            tail: start with this many of the last pieces (1 to 1000); ``after`` is then ignored.
            follow: also yield new output until the job has ended or is paused.
        """
        return following.logs(self._transport, job_id, after, tail, follow=follow)

    def metrics(
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
        return parse(Metrics, self._transport.send(call))

    def checkpoints(self, job_id: str) -> Checkpoints:
        """Return the checkpoints that the service keeps, newest first."""
        call = Call("GET", path("/v1/jobs/{}/checkpoints", job_id))
        return (Items(self._transport, call, CheckpointRead).page()).data

    def full_report(self, job_id: str) -> FullReport:
        """Return the content of a job's report page, with its plots (SVG)."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.json", job_id))
        return parse(FullReport, self._transport.send(call))

    def report_page(self, job_id: str) -> str:
        """Return the report of a job as one self-contained HTML page."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.html", job_id))
        return (self._transport.send(call)).text

    def report(self, job_id: str, name: str) -> dict[str, Any]:
        """Return a report of a job: ``estimate``, ``dataset``, ``memory`` or ``worst_pairs``.

        Raises:
            NotFoundError: the job has no such report, or not yet.
        """
        call = Call("GET", path("/v1/jobs/{}/reports/{}", job_id, name))
        return parse(JobReportRead, self._transport.send(call)).document

    def worst_pairs(self, job_id: str) -> Pairs:
        """Return the held-out pairs with the most negative margins, worst first, by line number."""
        document = self.report(job_id, "worst_pairs")
        pairs: Pairs = document["pairs"]
        return pairs

    def _create(self, address: str, body: object, key: str | None) -> Job:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._job(Call("POST", address, body=body, headers=headers))

    def _job(self, call: Call) -> Job:
        return self._bound(parse(Job, self._transport.send(call)))

    def _bound(self, job: Job) -> Job:
        return job.bound(self)


def _body(spec: Spec | None, fields: dict[str, Any]) -> object:
    if spec is None:
        return fields
    if fields:
        raise TypeError(f"Pass a spec or its fields, not both: {', '.join(sorted(fields))}.")
    return spec
