"""Routes of comparisons, and of the report pages of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Engine

from app.auth.key_ring import Principal
from app.core.database import transaction
from app.core.errors import TooLargeError
from app.evaluations.comparing import compare_evaluations
from app.evaluations.errors import (
    EvaluationNotFoundError,
    EvaluationUnfinishedError,
    InvalidComparisonError,
)
from app.evaluations.parameters import EVALUATION_ID, Adapter, EvaluationId
from app.evaluations.report import comparison_page, evaluation_document, evaluation_page
from app.evaluations.schemas import ComparisonRead, EvaluationReport
from app.reports.page import HTML_ANSWER, html_response
from app.web.dependencies import ReadEngineDep, RequireJobsRead
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1", tags=["evaluations"], route_class=StrictRoute)


@dataclass(frozen=True)
class _ComparisonQuery:
    a: Annotated[str, Query(pattern=EVALUATION_ID)]
    b: Annotated[str, Query(pattern=EVALUATION_ID)]
    a_adapter: Adapter = None
    b_adapter: Adapter = None


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
