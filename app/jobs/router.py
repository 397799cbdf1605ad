"""Routes of jobs: read, change, cancel, pause, resume and delete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response, status
from pydantic import StringConstraints

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import FieldProblem, InvalidError
from app.domain.spec import BASE_MODEL_ID, MAX_METADATA
from app.domain.training_spec import CleanText
from app.job_queue.dependencies import WatcherDep
from app.job_queue.job_view import JobItem, ShownStatus, etag, is_finished
from app.job_queue.queries import State
from app.jobs import queries, service
from app.jobs.errors import (
    JobFinishedError,
    JobLiveError,
    JobNotFoundError,
    JobStateError,
    job_not_found,
)
from app.jobs.fast_get import MAX_TAGS, PolledRoute, respond
from app.jobs.queries import JobFilter
from app.jobs.responses import JobId, job_response, json_response
from app.jobs.schemas import JobCancel, JobRead, JobUpdate
from app.web import etags
from app.web.dependencies import (
    EngineDep,
    PageQuery,
    ReadEngineDep,
    RequireJobsRead,
    RequireJobsWrite,
    SessionDep,
    TicketsDep,
    page_of,
)
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

Text = Annotated[CleanText, StringConstraints(max_length=128)]
_METADATA_KEY, _METADATA_VALUE = "[A-Za-z0-9_.-]{1,64}", "[^\\x00-\\x1f\\x7f]*"
_METADATA = re.compile(rf"metadata\[({_METADATA_KEY})\]")


@dataclass(frozen=True)
class _JobQuery:
    status: Annotated[ShownStatus | None, Query()] = None
    name: Annotated[Text | None, Query(description="Only jobs with exactly this name.")] = None
    base_model: Annotated[str | None, Query(pattern=BASE_MODEL_ID)] = None
    q: Annotated[
        Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None,
        Query(
            description="Only jobs with this text in name, id or base model, in any letter case."
        ),
    ] = None


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
                "description": "Only jobs with these metadata: `metadata[team]=search`.",
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
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("job"))],
    query: Annotated[_JobQuery, Depends()],
) -> Response:
    """List jobs, newest first, without spec and plan."""
    wanted = JobFilter(query.status, query.name, query.base_model, _metadata(request), query.q)
    with engine.connect() as connection:
        rows = queries.list_page(connection, principal.tenant_id, page.limit, page.after, wanted)
    return json_response(Page[JobItem].of(rows, page.limit, JobItem.of, by_id).model_dump_json())


async def get_job(
    job_id: JobId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait.")] = 0,
    until: Annotated[
        Literal["change", "terminal"], Query(description="What to wait for.")
    ] = "change",
    if_none_match: Annotated[str | None, Header(max_length=MAX_TAGS)] = None,
) -> Response:
    """Get a job; with ``wait``, as soon as it changes or finishes, or when the time is up."""

    def read() -> State | None:
        with engine.connect() as connection:
            return queries.state(connection, principal.tenant_id, job_id)

    if wait:
        state = await to_thread.run_sync(read)
        if state is None:
            raise job_not_found(job_id)
        is_known = if_none_match is None or etags.is_match(if_none_match, etag(state))
        if not is_finished(state.status) and (until == "terminal" or is_known):
            await watcher.wait(
                job_id,
                (lambda now: is_finished(now.status))
                if until == "terminal"
                else (lambda now: now != state),
                wait,
            )
    return await to_thread.run_sync(respond, engine, principal.tenant_id, job_id, if_none_match)


router.add_api_route(
    "/{job_id}",
    get_job,
    methods=["GET"],
    route_class_override=PolledRoute,
    response_model=JobRead,
    responses={
        304: {"description": "The job has not changed."},
        **error_responses(JobNotFoundError),
    },
)


@router.patch(
    "/{job_id}",
    response_model=JobRead,
    responses=error_responses(JobNotFoundError, JobStateError),
)
def update_job(
    job_id: JobId,
    body: JobUpdate,
    session: SessionDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
) -> Response:
    """Change the name, the metadata, the notes or, while the job waits, the priority."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        return job_response(service.get(session, principal.tenant_id, job_id))
    job = service.change(session, principal.tenant_id, job_id, changes)
    audit_log.record(session, actor, "job.update", job_id)
    return job_response(job)


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(JobNotFoundError, JobLiveError),
)
def delete_job(
    job_id: JobId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
    service.remove(session, principal.tenant_id, job_id)
    audit_log.record(session, actor, "job.delete", job_id)


@router.post(
    "/{job_id}/cancel",
    response_model=JobRead,
    responses=error_responses(JobNotFoundError, JobFinishedError),
)
def cancel_job(
    job_id: JobId,
    session: SessionDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    body: JobCancel | None = None,
) -> Response:
    """Cancel a job. A running job stops after its current step. Repeating it is not an error."""
    is_kept = body is not None and body.keep_checkpoint
    job = service.cancel(session, principal.tenant_id, job_id, keep_checkpoint=is_kept)
    audit_log.record(session, actor, "job.cancel", job_id)
    return job_response(job)


@router.post(
    "/{job_id}/pause",
    response_model=JobRead,
    responses=error_responses(JobNotFoundError, JobFinishedError, JobStateError),
)
def pause_job(
    job_id: JobId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> Response:
    """Pause a job. A running job saves a checkpoint and frees its device."""
    job = service.pause(session, principal.tenant_id, job_id)
    audit_log.record(session, actor, "job.pause", job_id)
    return job_response(job)


@router.post(
    "/{job_id}/resume",
    response_model=JobRead,
    responses=error_responses(JobNotFoundError, JobFinishedError, JobStateError),
)
def resume_job(
    job_id: JobId,
    engine: EngineDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
) -> Response:
    """Queue a paused job again; it resumes from its checkpoint."""
    with transaction(engine) as session:
        job = service.resume(session, principal.tenant_id, job_id)
        audit_log.record(session, actor, "job.resume", job_id)
    tickets.issue(job.queue)
    return job_response(job)


def _metadata(request: Request) -> dict[str, str]:
    """Return the metadata filters; reject malformed ones, which would otherwise match every job."""
    found: dict[str, str] = {}
    for key, value in request.query_params.items():
        if not key.startswith("metadata["):
            continue
        if len(found) == MAX_METADATA:
            what = f"more than {MAX_METADATA} filters"
            hint = "A job has no more entries than that: leave the rest out."
            problem = FieldProblem("/query/metadata", "too_long", what, hint)
            raise InvalidError(f"/query/metadata: {what}.", hint=hint, problems=[problem])
        match = _METADATA.fullmatch(key)
        if match is None or not re.fullmatch(_METADATA_VALUE, value):
            what, hint = "names no key and value", "Write metadata[team]=search, URL-encoded."
            problem = FieldProblem("/query/metadata", "bad_pattern", what, hint)
            raise InvalidError(f"/query/metadata {what}.", hint=hint, problems=[problem])
        found[match[1]] = value
    return found
