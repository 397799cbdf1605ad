# Generated from ../_async/jobs.py by `make client-models`. Do not edit.
"""Jobs: submit, look, steer; ``client.jobs``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Unpack, overload

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
# Inside the class, "list" is its method.
Checkpoints = list[CheckpointRead]
Pairs = list[dict[str, Any]]


class Jobs:
    """Training jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @overload
    def create(self, spec: Spec, /, *, idempotency_key: str | None = None) -> Job: ...
    @overload
    def create(
        self, *, idempotency_key: str | None = None, **fields: Unpack[params.RewardJobSpec]
    ) -> Job: ...
    def create(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a job, from a spec or from its fields as keywords.

        A lost answer is asked for again under one idempotency key, so that there is never a
        second job. Give a key of your own to repeat the call from another process as well.

        Raises:
            InvalidRequestError: the spec is refused; ``errors`` names the fields.
            QuotaExceededError: as many jobs wait as may.
        """
        return self._create("/v1/jobs", _body(spec, fields), idempotency_key)

    @overload
    def preview(self, spec: Spec, /) -> JobPreview: ...
    @overload
    def preview(self, **fields: Unpack[params.RewardJobSpec]) -> JobPreview: ...
    def preview(  # type: ignore[misc]  # mypy does not count **fields as those of the spec
        self, spec: Spec | None = None, /, **fields: Any
    ) -> JobPreview:
        """What a spec would become: nothing is stored (a dry run)."""
        call = Call("POST", "/v1/jobs", {"dry_run": True}, body=_body(spec, fields))
        return parse(JobPreview, self._transport.send(call))

    def get(self, job_id: str) -> Job:
        """A job."""
        return self._job(Call("GET", path("/v1/jobs/{}", job_id)))

    def list(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        base_model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
        after: str | None = None,
    ) -> Items[ListedJob]:
        """Jobs, newest first, without spec and plan; all pages, as they are iterated."""
        query: dict[str, object] = {
            "status": status,
            "name": name,
            "base_model": base_model,
            "limit": page_size,
            "after": after,
        }
        query |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        call = Call("GET", "/v1/jobs", query)
        return Items(self._transport, call, ListedJob, lambda item: item.bound(self))

    def update(self, job_id: str, **changes: Unpack[params.JobUpdate]) -> Job:
        """Change name, metadata or, while the job waits, priority."""
        return self._job(Call("PATCH", path("/v1/jobs/{}", job_id), body=changes))

    def cancel(self, job_id: str, *, keep_checkpoint: bool = False) -> Job:
        """Stop a job for good: a waiting one at once, a running one after its step.

        ``keep_checkpoint``: so that a clone can go on from it.
        """
        body: params.JobCancel = {"keep_checkpoint": keep_checkpoint}
        return self._job(Call("POST", path("/v1/jobs/{}/cancel", job_id), body=body))

    def pause(self, job_id: str) -> Job:
        """Put a job aside; a running one saves a checkpoint first and frees its device."""
        return self._job(Call("POST", path("/v1/jobs/{}/pause", job_id)))

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again; it goes on from its checkpoint."""
        return self._job(Call("POST", path("/v1/jobs/{}/resume", job_id)))

    def clone(
        self,
        job_id: str,
        *,
        idempotency_key: str | None = None,
        **changes: Unpack[params.JobClone],
    ) -> Job:
        """Queue a new job with this job's spec, or with parts of it changed.

        ``overrides={"training": {"learning_rate": 5e-5}}`` is merged into the spec;
        ``from_checkpoint=True`` goes on from the last checkpoint. Like ``create`` it makes one
        job, however often the request is repeated.
        """
        return self._create(path("/v1/jobs/{}/clone", job_id), changes, idempotency_key)

    def delete(self, job_id: str) -> None:
        """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
        self._transport.send(Call("DELETE", path("/v1/jobs/{}", job_id)))

    def wait(
        self, job_id: str, *, progress: bool | OnProgress = False, timeout: float | None = None
    ) -> Job:
        """The job once it ended or is paused; a restart of the service is waited out.

        Args:
            job_id: ``job_…``
            progress: True shows it on stderr; a function is called with every state of the job.
            timeout: seconds; None waits as long as the job takes.

        Raises:
            WaitTimeoutError: the time is up; the job goes on.
        """
        return following.wait(
            self._transport, self._bound, job_id, progress=progress, timeout=timeout
        )

    def events(self, job_id: str, *, after: int = 0, follow: bool = True) -> Iterator[EventRead]:
        """What happens to a job, in order and without gaps.

        With ``follow`` the events still to come as well, until the job ends; a connection that
        breaks off is taken up where it was. ``after``: only later ones, by their ``id``.
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
        """The trainer's own output, oldest first.

        ``tail``: only the last so many pieces (1 to 1000) of what is there; ``follow``: go on
        until the job ends.
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
        """Metrics by column; more steps than ``resolution`` are averaged.

        ``keys``: names with commas between them (``"train/loss,eval/accuracy"``); None: all.
        """
        query = {"keys": keys, "from_step": from_step, "to_step": to_step, "resolution": resolution}
        call = Call("GET", path("/v1/jobs/{}/metrics", job_id), query)
        return parse(Metrics, self._transport.send(call))

    def checkpoints(self, job_id: str) -> Checkpoints:
        """The checkpoints that are kept, newest first."""
        call = Call("GET", path("/v1/jobs/{}/checkpoints", job_id))
        return (Items(self._transport, call, CheckpointRead).page()).data

    def full_report(self, job_id: str) -> FullReport:
        """What the report page of a job shows, with its plots (SVG)."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.json", job_id))
        return parse(FullReport, self._transport.send(call))

    def report_page(self, job_id: str) -> str:
        """The report of a job as one HTML page that needs nothing else."""
        call = Call("GET", path("/v1/jobs/{}/reports/full.html", job_id))
        return (self._transport.send(call)).text

    def report(self, job_id: str, name: str) -> dict[str, Any]:
        """A document about the job: ``estimate``, ``dataset``, ``memory`` or ``worst_pairs``."""
        call = Call("GET", path("/v1/jobs/{}/reports/{}", job_id, name))
        return parse(JobReportRead, self._transport.send(call)).document

    def worst_pairs(self, job_id: str) -> Pairs:
        """The most confidently wrong held-out pairs, worst first, by their line."""
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
        raise TypeError(f"Give a spec or its fields, not both: {', '.join(sorted(fields))}.")
    return spec
