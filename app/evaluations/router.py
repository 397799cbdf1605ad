"""Routes of evaluations, suites and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from sqlalchemy import Engine

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.auth.key_ring import Principal
from app.core.database import transaction
from app.core.errors import QuotaError, TooLargeError
from app.domain.evaluation import EvaluationSpec
from app.domain.judging.suites import SUITES
from app.evaluations import service
from app.evaluations.comparing import compare_evaluations
from app.evaluations.errors import (
    EvaluationFinishedError,
    EvaluationLiveError,
    EvaluationNotFoundError,
    EvaluationUnfinishedError,
    InvalidComparisonError,
    InvalidEvaluationError,
)
from app.evaluations.report import comparison_page, evaluation_document, evaluation_page
from app.evaluations.resolving import resolve
from app.evaluations.schemas import (
    ComparisonRead,
    EvaluationItem,
    EvaluationRead,
    EvaluationReport,
    SuiteRead,
    WorstPairs,
)
from app.job_queue import queries
from app.job_queue.dependencies import WatcherDep
from app.job_queue.job_view import is_finished
from app.jobs.history_schemas import EventRead
from app.reports.page import HTML_ANSWER, html_response
from app.storage.blobs import read_range
from app.web.dependencies import (
    EngineDep,
    PageDep,
    ReadEngineDep,
    RequireJobsRead,
    RequireJobsWrite,
    SessionDep,
    SettingsDep,
    TicketsDep,
)
from app.web.pagination import Page
from app.web.problem_details import error_responses
from app.web.streaming import LimitedStreamingResponse
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1", tags=["evaluations"], route_class=StrictRoute)

EVALUATION_ID = r"^eval_[0-9a-f]{32}$"
EvaluationId = Annotated[str, Path(pattern=EVALUATION_ID)]
Adapter = Annotated[
    str | None,
    Query(
        pattern=r"^(ad_[0-9a-f]{32}|base:untrained)$",
        description="A model of the evaluation; default: its first adapter.",
    ),
]


@dataclass(frozen=True)
class _ComparisonQuery:
    a: Annotated[str, Query(pattern=EVALUATION_ID)]
    b: Annotated[str, Query(pattern=EVALUATION_ID)]
    a_adapter: Adapter = None
    b_adapter: Adapter = None


_NOT_FOUND = error_responses(EvaluationNotFoundError)


@router.get("/suites")
def list_suites(_principal: RequireJobsRead) -> Page[SuiteRead]:
    """List the public benchmarks whose rules this service implements."""
    data = [SuiteRead.of(suite) for suite in SUITES.values()]
    return Page[SuiteRead](data=data, has_more=False, next=None)


@router.post(
    "/evaluations",
    status_code=status.HTTP_201_CREATED,
    responses=error_responses(InvalidEvaluationError, QuotaError),
)
def create_evaluation(
    body: EvaluationSpec,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
) -> EvaluationRead:
    """Queue an evaluation of adapters on a dataset."""
    with transaction(engine) as session:
        resolved = resolve(session, principal.tenant_id, body)
        job = service.request_evaluation(session, settings, principal.tenant_id, body, resolved)
        session.flush()
        found = EvaluationRead.with_result(job, service.dataset_uses(session, job))
        audit_log.record(session, actor, "evaluation.create", found.id)
    tickets.issue(job.queue)
    return found


@router.get("/evaluations")
def list_evaluations(
    engine: ReadEngineDep, principal: RequireJobsRead, page: PageDep
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


@router.get("/evaluations/{evaluation_id}/events", responses=_NOT_FOUND)
def list_evaluation_events(
    evaluation_id: EvaluationId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only events after this number.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[EventRead]:
    """List the events of an evaluation, in order and without gaps."""
    with transaction(engine) as session:
        job = service.get(session, principal.tenant_id, evaluation_id)
        rows = queries.events(session.connection(), job.id, after, limit + 1)
    return Page[EventRead].of(rows, limit, EventRead.of, lambda row: str(row.seq))


@router.get(
    "/evaluations/{evaluation_id}/scores",
    response_class=Response,
    responses={
        200: {
            "description": "One JSON object per row: `line`, `scores`, `ranks`, `lengths` …",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        **error_responses(EvaluationNotFoundError, EvaluationUnfinishedError),
    },
)
def get_scores(
    request: Request,
    evaluation_id: EvaluationId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    adapter: Adapter = None,
) -> Response:
    """Download the scores of every reply, as JSON lines."""
    with transaction(engine) as session:
        found = service.score_file(session, principal.tenant_id, evaluation_id, adapter)
    file = found.file
    return LimitedStreamingResponse(
        request,
        read_range(engine, file.blob_id, 0, file.size),
        media_type="application/x-ndjson",
        headers={"Content-Length": str(file.size), "X-Content-Type-Options": "nosniff"},
    )


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
        raise EvaluationUnfinishedError(f"{evaluation_id} is {job.status}.")
    return WorstPairs(models=document["models"])


@router.get(
    "/comparisons",
    responses=error_responses(
        EvaluationNotFoundError, EvaluationUnfinishedError, InvalidComparisonError, TooLargeError
    ),
)
async def compare(
    request: Request,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    query: Annotated[_ComparisonQuery, Depends()],
) -> ComparisonRead:
    """Compare two models on the rows that both evaluations scored."""
    return await _compare(request, engine, principal, query)


@router.get(
    "/evaluations/{evaluation_id}/reports/full.html",
    response_class=Response,
    responses={
        200: HTML_ANSWER,
        **error_responses(EvaluationNotFoundError, EvaluationUnfinishedError),
    },
)
def get_evaluation_page(
    evaluation_id: EvaluationId, engine: ReadEngineDep, principal: RequireJobsRead
) -> Response:
    """Get the report of an evaluation as one self-contained HTML page."""
    with transaction(engine) as session:
        document = evaluation_document(session, principal.tenant_id, evaluation_id)
    return html_response(evaluation_page(document), f"{evaluation_id}.html")


@router.get(
    "/evaluations/{evaluation_id}/reports/full.json",
    responses=error_responses(EvaluationNotFoundError, EvaluationUnfinishedError),
)
def get_evaluation_document(
    evaluation_id: EvaluationId, engine: ReadEngineDep, principal: RequireJobsRead
) -> EvaluationReport:
    """Get the content of the report page of an evaluation as JSON."""
    with transaction(engine) as session:
        return evaluation_document(session, principal.tenant_id, evaluation_id)


@router.get(
    "/comparisons/full.html",
    response_class=Response,
    responses={
        200: HTML_ANSWER,
        **error_responses(
            EvaluationNotFoundError,
            EvaluationUnfinishedError,
            InvalidComparisonError,
            TooLargeError,
        ),
    },
)
async def get_comparison_page(
    request: Request,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    query: Annotated[_ComparisonQuery, Depends()],
) -> Response:
    """Get a comparison as one self-contained HTML page. GET /v1/comparisons returns its numbers."""
    found = await _compare(request, engine, principal, query)
    return html_response(comparison_page(found), "comparison.html")


async def _compare(
    request: Request, engine: Engine, principal: Principal, query: _ComparisonQuery
) -> ComparisonRead:
    limiter: CapacityLimiter = request.app.state.comparison_limiter
    return await to_thread.run_sync(
        compare_evaluations,
        engine,
        principal.tenant_id,
        (query.a, query.a_adapter),
        (query.b, query.b_adapter),
        limiter=limiter,
    )
