"""Jobs over HTTP: look, change, stop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, status
from pydantic import StringConstraints

from app.audit import trail
from app.audit.acting import ActorDep
from app.bodies import StrictRoute
from app.database import transaction
from app.dependencies import (
    EngineDep,
    JobsReaderDep,
    JobsWriterDep,
    PageDep,
    ReaderDep,
    SessionDep,
    TicketsDep,
)
from app.domain.spec import BASE_MODEL_ID, CleanText
from app.errors import FieldProblem, InvalidError
from app.jobs import reading, service
from app.jobs.cloning import JobStateError
from app.jobs.polling import JOB_ID, MAX_TAGS, PolledRoute, answer, names
from app.jobs.reading import JobFilter, State
from app.jobs.schemas import (
    JobCancel,
    JobItem,
    JobRead,
    JobUpdate,
    ShownStatus,
    etag,
    is_over,
)
from app.jobs.service import (
    JobFinishedError,
    JobLiveError,
    JobNotFoundError,
)
from app.jobs.watching import Watcher
from app.models import Job
from app.problems import documented
from app.shapes import Page, by_id

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

JobId = Annotated[str, Path(pattern=JOB_ID)]
Text = Annotated[CleanText, StringConstraints(max_length=128)]
_METADATA_KEY, _METADATA_VALUE = "[A-Za-z0-9_.-]{1,64}", "[^\\x00-\\x1f\\x7f]*"
_METADATA = re.compile(rf"metadata\[({_METADATA_KEY})\]")


async def get_watcher(request: Request) -> Watcher:
    """Tells waiting requests that a job changed."""
    watcher: Watcher = request.app.state.watcher
    return watcher


WatcherDep = Annotated[Watcher, Depends(get_watcher)]


@dataclass(frozen=True)
class _JobQuery:
    status: Annotated[ShownStatus | None, Query()] = None
    name: Annotated[Text | None, Query(description="Exactly this name.")] = None
    base_model: Annotated[str | None, Query(pattern=BASE_MODEL_ID)] = None


@router.get(
    "",
    response_model=Page[JobItem],
    openapi_extra={
        "parameters": [
            {
                "name": "metadata",
                "in": "query",
                "style": "deepObject",
                "explode": True,
                "description": "Exactly these pairs: `metadata[team]=search`.",
                "schema": {
                    "type": "object",
                    "propertyNames": {"pattern": f"^{_METADATA_KEY}$"},
                    "additionalProperties": {"type": "string", "pattern": f"^{_METADATA_VALUE}$"},
                },
            }
        ]
    },
)
def list_jobs(
    request: Request,
    engine: ReaderDep,
    principal: JobsReaderDep,
    page: PageDep,
    query: Annotated[_JobQuery, Depends()],
) -> Response:
    """Jobs, newest first; without spec and plan."""
    wanted = JobFilter(query.status, query.name, query.base_model, _metadata(request))
    with engine.connect() as connection:
        rows = reading.list_page(connection, principal.tenant_id, page.limit, page.after, wanted)
    return json_response(Page[JobItem].of(rows, page.limit, JobItem.of, by_id).model_dump_json())


async def get_job(
    job_id: JobId,
    engine: ReaderDep,
    principal: JobsReaderDep,
    watcher: WatcherDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for it.")] = 0,
    until: Annotated[
        Literal["change", "terminal"], Query(description="What to wait for.")
    ] = "change",
    if_none_match: Annotated[str | None, Header(max_length=MAX_TAGS)] = None,
) -> Response:
    """A job. With ``wait`` the answer comes when it changed, or ended, or time is up."""

    def read() -> State | None:
        with engine.connect() as connection:
            return reading.state(connection, principal.tenant_id, job_id)

    if wait:
        state = await to_thread.run_sync(read)
        if state is None:
            raise service.not_found(job_id)
        is_known = if_none_match is None or names(if_none_match, state)
        if not is_over(state.status) and (until == "terminal" or is_known):
            await watcher.wait(
                job_id,
                (lambda now: is_over(now.status))
                if until == "terminal"
                else (lambda now: now != state),
                wait,
            )
    return await to_thread.run_sync(answer, engine, principal.tenant_id, job_id, if_none_match)


router.add_api_route(
    "/{job_id}",
    get_job,
    methods=["GET"],
    route_class_override=PolledRoute,
    response_model=JobRead,
    responses={
        304: {"description": "As the client knows it."},
        **documented(JobNotFoundError),
    },
)


@router.patch(
    "/{job_id}",
    response_model=JobRead,
    responses=documented(JobNotFoundError, JobStateError),
)
def update_job(
    job_id: JobId, body: JobUpdate, session: SessionDep, principal: JobsWriterDep, actor: ActorDep
) -> Response:
    """Change name, metadata or, while the job waits, priority."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        return shown(service.get(session, principal.tenant_id, job_id))
    job = service.change(session, principal.tenant_id, job_id, changes)
    trail.record(session, actor, "job.update", job_id)
    return shown(job)


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(JobNotFoundError, JobLiveError),
)
def delete_job(
    job_id: JobId, session: SessionDep, principal: JobsWriterDep, actor: ActorDep
) -> None:
    """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
    service.remove(session, principal.tenant_id, job_id)
    trail.record(session, actor, "job.delete", job_id)


@router.post(
    "/{job_id}/cancel",
    response_model=JobRead,
    responses=documented(JobNotFoundError, JobFinishedError),
)
def cancel_job(
    job_id: JobId,
    session: SessionDep,
    principal: JobsWriterDep,
    actor: ActorDep,
    body: JobCancel | None = None,
) -> Response:
    """Cancel a waiting job at once; a running one stops after its step. Again is no error."""
    is_kept = body is not None and body.keep_checkpoint
    job = service.cancel(session, principal.tenant_id, job_id, keep_checkpoint=is_kept)
    trail.record(session, actor, "job.cancel", job_id)
    return shown(job)


@router.post(
    "/{job_id}/pause",
    response_model=JobRead,
    responses=documented(JobNotFoundError, JobFinishedError, JobStateError),
)
def pause_job(
    job_id: JobId, session: SessionDep, principal: JobsWriterDep, actor: ActorDep
) -> Response:
    """Put a job aside; a running one saves a checkpoint first and frees its device."""
    job = service.pause(session, principal.tenant_id, job_id)
    trail.record(session, actor, "job.pause", job_id)
    return shown(job)


@router.post(
    "/{job_id}/resume",
    response_model=JobRead,
    responses=documented(JobNotFoundError, JobFinishedError, JobStateError),
)
def resume_job(
    job_id: JobId,
    engine: EngineDep,
    tickets: TicketsDep,
    principal: JobsWriterDep,
    actor: ActorDep,
) -> Response:
    """Queue a paused job again; it goes on from its checkpoint."""
    with transaction(engine) as session:
        job = service.resume(session, principal.tenant_id, job_id)
        trail.record(session, actor, "job.resume", job_id)
    tickets.issue(job.queue)
    return shown(job)


def _metadata(request: Request) -> dict[str, str]:
    """The pairs that are asked for. What is none is refused: ignored, it would show all jobs."""
    found = {}
    for key, value in request.query_params.items():
        if not key.startswith("metadata["):
            continue
        match = _METADATA.fullmatch(key)
        if match is None or not re.fullmatch(_METADATA_VALUE, value):
            what, hint = "names no key and value", "Write metadata[team]=search, URL-encoded."
            problem = FieldProblem("/query/metadata", "bad_pattern", what, hint)
            raise InvalidError(f"/query/metadata {what}.", hint=hint, problems=[problem])
        found[match[1]] = value
    return found


def shown(job: Job) -> Response:
    return json_response(JobRead.of(job).model_dump_json(), ETag=etag(job))


def json_response(text: str, **headers: str) -> Response:
    return Response(text, media_type="application/json", headers=headers)
