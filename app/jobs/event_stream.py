"""Events as pages, and as server-sent events with ids that a client can resume from."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import Connection, Engine

from app.auth.require_scope import is_still_authorized
from app.core.database import reader
from app.core.errors import NotFoundError
from app.job_queue import queries
from app.job_queue.job_view import JobProgress, is_finished
from app.job_queue.queries import JobRow, State
from app.job_queue.watcher import Watcher
from app.jobs.history_schemas import EventRead
from app.jobs.responses import json_response
from app.web.pagination import Page
from app.web.streaming import LimitedStreamingResponse

#: Seconds between two keep-alive comments.
HEARTBEAT_SECONDS = 15.0
#: Seconds after which a stream ends. Clients reconnect and resume, so nothing is lost.
MAX_STREAM_SECONDS = 3600.0
_BATCH = 100


#: Answers of a route that lists events.
EVENT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "In ascending order. With `Accept: text/event-stream` a stream that ends "
        "when the work finishes; `id:` is the number of the event.",
    },
    204: {"description": "A stream would resume after the last event, and the work is finished."},
}
#: Returns the job whose events are meant, or raises NotFoundError.
FindJob = Callable[[Connection], JobRow]


@dataclass(frozen=True)
class EventQuery:
    """Which events a client asks for, and in which form."""

    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only events after this number.")
    ] = 0
    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    accept: Annotated[str | None, Header()] = None
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}$")] = None


def events_response(
    request: Request, engine: Engine, watcher: Watcher, find: FindJob, query: EventQuery
) -> Response:
    """Return a page of the events of a job, or a stream of them.

    The stream sends new events as soon as they are written. It ends when the job has finished or
    was deleted, or when the key is no longer valid.

    Raises:
        NotFoundError: there is no such job.
    """
    with engine.connect() as connection:
        job = find(connection)
        if query.accept is None or "text/event-stream" not in query.accept.lower():
            rows = queries.events(connection, job.id, query.after, query.limit + 1)
            page = Page[EventRead].of(rows, query.limit, EventRead.of, lambda row: str(row.seq))
            return json_response(page.model_dump_json())
    seen = max(query.after, int(query.last_event_id or 0))
    if is_finished(job.status) and job.event_seq <= seen:
        # The only status after which a browser's EventSource does not reconnect.
        return Response(status_code=204)
    return LimitedStreamingResponse(
        request,
        _events(request, reader(engine), watcher, find, seen),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    request: Request, engine: Engine, watcher: Watcher, find: FindJob, after: int
) -> AsyncIterator[bytes]:
    def read() -> tuple[JobRow | None, Sequence[Any]]:
        if not is_still_authorized(request):
            return None, ()
        # The job is read first: events written between the two reads are then sent, not skipped.
        with engine.connect() as connection:
            try:
                job = find(connection)
            except NotFoundError:
                return None, ()
            return job, queries.events(connection, job.id, after, _BATCH)

    ends_at = time.monotonic() + MAX_STREAM_SECONDS
    shown_version = -1
    yield b"retry: 2000\n\n"
    while time.monotonic() < ends_at and not watcher.is_closed:
        job, events = await to_thread.run_sync(read)
        for event in events:
            after = event.seq
            yield format_sse_event(
                data_str=EventRead.of(event).model_dump_json(), event=event.type, id=str(after)
            )
        if len(events) == _BATCH:
            continue
        if job is None or (is_finished(job.status) and job.event_seq <= after):
            return
        if job.step is not None and job.version != shown_version:
            # Without an id, because a client cannot resume after a progress message.
            yield format_sse_event(
                data_str=JobProgress.of(job).model_dump_json(), event="progress"
            )  # fmt: skip
        shown_version = version = int(job.version)
        if not await watcher.wait(job.id, partial(_differs, version), HEARTBEAT_SECONDS):
            yield KEEPALIVE_COMMENT


def _differs(version: int, state: State) -> bool:
    return state.version != version
