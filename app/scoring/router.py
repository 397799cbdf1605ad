"""POST /v1/score."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.adapters.service import AdapterNotFoundError
from app.scoring import scoring, service
from app.scoring.errors import (
    AdapterNotVerifiedError,
    AdapterUnusableError,
    EnsembleInvalidError,
    ItemInvalidError,
    ItemTooLongError,
    NoStatisticsError,
    ScorerSaturatedError,
    ScorerUnavailableError,
    ScoreSpecChangedError,
)
from app.scoring.schemas import ScoreRequest, ScoreResponse
from app.scoring.score_route import MAX_BODY_BYTES, ScoreRoute
from app.scoring.scoring_model import check_model
from app.web.dependencies import RequireScoresWrite
from app.web.problem_details import error_responses

#: Below this, a request is checked on the event loop: it takes less than a millisecond.
INLINE_BYTES = 16 << 10


router = APIRouter(prefix="/v1", tags=["scoring"], route_class=ScoreRoute)


@router.post(
    "/score",
    response_model=ScoreResponse,
    max_body_size=MAX_BODY_BYTES,
    responses=error_responses(
        AdapterNotFoundError,
        AdapterNotVerifiedError,
        AdapterUnusableError,
        ScoreSpecChangedError,
        ItemTooLongError,
        ItemInvalidError,
        EnsembleInvalidError,
        NoStatisticsError,
        ScorerSaturatedError,
        ScorerUnavailableError,
    ),
)
async def create_scores(
    request: Request,
    body: ScoreRequest,
    principal: RequireScoresWrite,
    if_score_spec: Annotated[
        str | None,
        Header(max_length=100, description="Fail with 412 if the model's `score_spec` differs."),
    ] = None,
) -> Response:
    """Score replies with an adapter or an ensemble: all of them, or none.

    Requests wait in a queue and are held while a scorer restarts, so they may take long. The
    request rate of the key does not apply.
    """
    model = await scoring.find_model(request, principal.tenant_id, body.model)
    check_model(model, body.normalize)
    if if_score_spec is not None and if_score_spec != model.spec:
        raise ScoreSpecChangedError(
            f"The score_spec is {model.spec} now.", hint=ScoreSpecChangedError.next_step
        )
    size = int(request.headers.get("content-length") or len(await request.body()))
    if size <= INLINE_BYTES:
        work = service.work_for(body, model)
    else:
        work = await run_in_threadpool(service.work_for, body, model)
    scored = await scoring.score(request, work, service.reply_locs(body), size)
    result = service.response_for(body, model, scored)
    return Response(
        result.model_dump_json(exclude_none=True),
        media_type="application/json",
        headers=result.headers(),
    )
