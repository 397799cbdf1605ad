"""Routes that score a whole dataset with an adapter."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from sqlalchemy import Connection

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError, RangeError
from app.domain.score_batch import ScoreBatchSpec
from app.job_queue.dependencies import WatcherDep
from app.job_queue.idempotency import REPLAYED, IdempotencyKey, KeyReusedError
from app.job_queue.job_view import is_finished
from app.job_queue.queries import JobRow
from app.jobs.event_stream import EVENT_ANSWERS, EventQuery, events_response
from app.jobs.history_schemas import EventRead
from app.score_batches import service
from app.score_batches.errors import (
    InvalidScoreBatchError,
    ScoreBatchFinishedError,
    ScoreBatchLiveError,
    ScoreBatchNotFoundError,
    ScoreBatchUnfinishedError,
)
from app.score_batches.schemas import ScoreBatchItem, ScoreBatchRead
from app.score_batches.service import BatchRequest
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
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.range_response import Content, content_response
from app.web.strict_route import StrictRoute

router = APIRouter(prefix="/v1/score/batches", tags=["scoring"], route_class=StrictRoute)

BatchId = Annotated[str, Path(pattern=r"^batch_[0-9a-f]{32}$")]
_NOT_FOUND = error_responses(ScoreBatchNotFoundError)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses=error_responses(InvalidScoreBatchError, KeyReusedError, QuotaError),
)
def create_score_batch(
    body: ScoreBatchSpec,
    response: Response,
    engine: EngineDep,
    settings: SettingsDep,
    tickets: TicketsDep,
    principal: RequireJobsWrite,
    actor: ActorDep,
    idempotency_key: IdempotencyKey = None,
) -> ScoreBatchRead:
    """Queue a job that scores every reply of a dataset with an adapter."""
    request = BatchRequest(body, idempotency_key)
    with transaction(engine) as session:
        job, is_replay = service.request_batch(session, settings, principal.tenant_id, request)
        if not is_replay:
            audit_log.record(session, actor, "score_batch.create", job.id)
        found = ScoreBatchRead.with_result(job)
        queue = job.queue
    tickets.issue(queue)
    response.headers["Location"] = f"/v1/score/batches/{found.id}"
    if is_replay:
        response.headers[REPLAYED] = "true"
    return found


@router.get("")
def list_score_batches(
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    page: Annotated[PageQuery, Depends(page_of("batch"))],
) -> Page[ScoreBatchItem]:
    """List score batches, newest first, without spec and result."""
    with engine.connect() as connection:
        rows = service.list_page(connection, principal.tenant_id, page.limit, page.after)
    return Page[ScoreBatchItem].of(rows, page.limit, ScoreBatchItem.of, by_id)


@router.get("/{batch_id}", responses=_NOT_FOUND)
async def get_score_batch(
    batch_id: BatchId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Seconds to wait until it is finished.")
    ] = 0,
) -> ScoreBatchRead:
    """Get a score batch; with ``wait``, as soon as it finishes."""

    def read() -> ScoreBatchRead:
        with transaction(engine) as session:
            job = service.get(session, principal.tenant_id, batch_id)
            return ScoreBatchRead.with_result(job)

    found = await to_thread.run_sync(read)
    if wait and not is_finished(found.status):
        await watcher.wait(batch_id, lambda now: is_finished(now.status), wait)
        found = await to_thread.run_sync(read)
    return found


@router.post(
    "/{batch_id}/cancel",
    responses=error_responses(ScoreBatchNotFoundError, ScoreBatchFinishedError),
)
def cancel_score_batch(
    batch_id: BatchId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> ScoreBatchRead:
    """Cancel a score batch. Repeating the request is not an error."""
    job = service.cancel(session, principal.tenant_id, batch_id)
    audit_log.record(session, actor, "score_batch.cancel", batch_id)
    return ScoreBatchRead.with_result(job)


@router.delete(
    "/{batch_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(ScoreBatchNotFoundError, ScoreBatchLiveError),
)
def delete_score_batch(
    batch_id: BatchId, session: SessionDep, principal: RequireJobsWrite, actor: ActorDep
) -> None:
    """Delete a finished score batch with its scores."""
    service.remove(session, principal.tenant_id, batch_id)
    audit_log.record(session, actor, "score_batch.delete", batch_id)


@router.get(
    "/{batch_id}/events",
    response_model=Page[EventRead],
    responses={**EVENT_ANSWERS, **_NOT_FOUND},
)
def list_score_batch_events(
    request: Request,
    batch_id: BatchId,
    engine: ReadEngineDep,
    principal: RequireJobsRead,
    watcher: WatcherDep,
    query: Annotated[EventQuery, Depends()],
) -> Response:
    """List the events of a score batch, in order and without gaps."""

    def find(connection: Connection) -> JobRow:
        return service.find(connection, principal.tenant_id, batch_id)

    return events_response(request, engine, watcher, find, query)


@router.get(
    "/{batch_id}/scores",
    response_class=Response,
    responses={
        200: {
            "description": "One JSON object for each row of the dataset, in its order: `line`, "
            "`id` if it has one, `scores` of its replies, `tokens` and `truncated`. A row that "
            "cannot be scored has `scores: null` and a `reason`.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        206: {"description": "A part of it."},
        304: {"description": "The client has it."},
        **error_responses(ScoreBatchNotFoundError, ScoreBatchUnfinishedError, RangeError),
    },
)
def get_batch_scores(
    request: Request, batch_id: BatchId, engine: ReadEngineDep, principal: RequireJobsRead
) -> Response:
    """Download the scores of every reply, as JSON lines. Supports ETag and a single Range."""
    with transaction(engine) as session:
        file = service.score_file(session, principal.tenant_id, batch_id)
    content = Content(
        filename=f"{batch_id}.jsonl",
        media_type="application/x-ndjson",
        sha256=file.sha256,
        size=file.size,
        read=lambda start, stop: read_range(engine, file.blob_id, start, stop),
    )
    return content_response(request, content)
