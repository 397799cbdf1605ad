"""Routes of evaluations and suites."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response, status
from sqlalchemy import Connection

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError, RangeError
from app.domain.evaluation import EvaluationSpec
from app.domain.judging.suites import SUITES
from app.evaluations import service
from app.evaluations.errors import (
    EvaluationFinishedError,
    EvaluationLiveError,
    EvaluationNotFoundError,
    EvaluationUnfinishedError,
    InvalidEvaluationError,
)
from app.evaluations.parameters import Adapter, EvaluationId
from app.evaluations.schemas import EvaluationItem, EvaluationRead, SuiteRead, WorstPairs
from app.job_queue import queries
from app.job_queue.dependencies import WatcherDep
from app.job_queue.idempotency import REPLAYED, IdempotencyKey, KeyReusedError
from app.job_queue.job_view import is_finished
from app.job_queue.queries import JobRow
from app.jobs.event_stream import EVENT_ANSWERS, EventQuery, events_response
from app.jobs.history_schemas import EventRead
from app.storage.blobs import read_range
from app.web.dependencies import (
    EngineDep,
    PageQuery,
    ReadEngineDep,
    RequireJobsRead,
    RequireJobsWrite,
    SessionDep,
    SettingsDep,
    TicketsDep,
    page_of,
)
from app.web.pagination import Page
from app.web.problem_details import error_responses
from app.web.range_response import Content, content_response
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1", tags=["evaluations"], route_class=StrictRoute)

_NOT_FOUND = error_responses(EvaluationNotFoundError)


@router.get("/suites")
def list_suites(_principal: RequireJobsRead) -> Page[SuiteRead]:
    """List the public benchmarks whose rules this service implements."""
    data = [SuiteRead.of(suite) for suite in SUITES.values()]
    return Page[SuiteRead](data=data, has_more=False, next=None)


@router.post(
    "/evaluations",
    status_code=status.HTTP_201_CREATED,
    responses=error_responses(InvalidEvaluationError, KeyReusedError, QuotaError),
)
def create_evaluation(
    body: EvaluationSpec,
    response: Response,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    idempotency_key: IdempotencyKey = None,
) -> EvaluationRead:
    """Queue an evaluation of adapters on a dataset."""
    with transaction(engine) as session:
        job, is_replay = service.request_evaluation(
            session, settings, principal.tenant_id, body, idempotency_key
        )
        session.flush()
        found = EvaluationRead.with_result(job, service.dataset_uses(session, job))
        if not is_replay:
            audit_log.record(session, actor, "evaluation.create", found.id)
    tickets.issue(job.queue)
    response.headers["Location"] = f"/v1/evaluations/{found.id}"
    if is_replay:
        response.headers[REPLAYED] = "true"
    return found


@router.get("/evaluations")
def list_evaluations(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("eval"))],
) -> Page[EvaluationItem]:
    """List evaluations, newest first, without spec and result."""
    with engine.connect() as connection:
        rows = service.list_page(connection, principal.tenant_id, page.limit, page.after)
    return Page[EvaluationItem].of(
        rows, page.limit, EvaluationItem.of, lambda row: EvaluationItem.of(row).id
    )


@router.get("/evaluations/{evaluation_id}", responses=_NOT_FOUND)
async def get_evaluation(
    evaluation_id: EvaluationId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Seconds to wait until it is finished.")
    ] = 0,
) -> EvaluationRead:
    """Get an evaluation with its result; with ``wait``, as soon as it finishes."""

    def read() -> tuple[str, EvaluationRead]:
        with transaction(engine) as session:
            job = service.get(session, principal.tenant_id, evaluation_id)
            return job.id, EvaluationRead.with_result(job, service.dataset_uses(session, job))

    job_id, found = await to_thread.run_sync(read)
    if wait and not is_finished(found.status):
        await watcher.wait(job_id, lambda now: is_finished(now.status), wait)
        _, found = await to_thread.run_sync(read)
    return found


@router.post(
    "/evaluations/{evaluation_id}/cancel",
    responses=error_responses(EvaluationNotFoundError, EvaluationFinishedError),
)
def cancel_evaluation(
    evaluation_id: EvaluationId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> EvaluationRead:
    """Cancel an evaluation. Repeating the request is not an error."""
    job = service.cancel(session, principal.tenant_id, evaluation_id)
    audit_log.record(session, actor, "evaluation.cancel", evaluation_id)
    return EvaluationRead.with_result(job, service.dataset_uses(session, job))


@router.delete(
    "/evaluations/{evaluation_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(EvaluationNotFoundError, EvaluationLiveError),
)
def delete_evaluation(
    evaluation_id: EvaluationId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete a finished evaluation with its scores."""
    service.remove(session, principal.tenant_id, evaluation_id)
    audit_log.record(session, actor, "evaluation.delete", evaluation_id)


@router.get(
    "/evaluations/{evaluation_id}/events",
    response_model=Page[EventRead],
    responses={**EVENT_ANSWERS, **_NOT_FOUND},
)
def list_evaluation_events(
    request: Request,
    evaluation_id: EvaluationId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    query: Annotated[EventQuery, Depends()],
) -> Response:
    """List the events of an evaluation, in order and without gaps."""

    def find(connection: Connection) -> JobRow:
        return service.find(connection, principal.tenant_id, evaluation_id)

    return events_response(request, engine, watcher, find, query)


@router.get(
    "/evaluations/{evaluation_id}/scores",
    response_class=Response,
    responses={
        200: {
            "description": "One JSON object per row: `line`, `scores`, `ranks`, `lengths` …",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        206: {"description": "A part of it."},
        304: {"description": "The client has it."},
        **error_responses(EvaluationNotFoundError, EvaluationUnfinishedError, RangeError),
    },
)
def get_scores(
    request: Request,
    evaluation_id: EvaluationId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    adapter: Adapter = None,
) -> Response:
    """Download the scores of every reply, as JSON lines. Supports ETag and a single Range."""
    with transaction(engine) as session:
        found = service.score_file(session, principal.tenant_id, evaluation_id, adapter)
    file = found.file
    content = Content(
        filename=f"{evaluation_id}-{file.name}",
        media_type="application/x-ndjson",
        sha256=file.sha256,
        size=file.size,
        read=lambda start, stop: read_range(engine, file.blob_id, start, stop),
    )
    return content_response(request, content)


@router.get(
    "/evaluations/{evaluation_id}/worst-pairs",
    responses=error_responses(EvaluationNotFoundError, EvaluationUnfinishedError),
)
def get_worst_pairs(
    evaluation_id: EvaluationId, engine: ReadEngineDep, principal: RequireJobsRead
) -> WorstPairs:
    """Get the pairs that each model orders wrongly by the largest margin, with their texts."""
    with transaction(engine) as session:
        job = service.get(session, principal.tenant_id, evaluation_id)
        document = queries.report(session.connection(), job.id, "worst_pairs")
    if document is None:
        raise EvaluationUnfinishedError(f"{evaluation_id} is {job.status}, so it has no result.")
    return WorstPairs(models=document["models"])
