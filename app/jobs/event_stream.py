"""Stream events as server-sent events, with ids that a client can resume from."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import Engine

from app.auth.require_scope import is_still_authorized
from app.core.database import reader
from app.job_queue import queries
from app.job_queue.job_view import JobProgress, is_finished
from app.job_queue.queries import JobRow, State
from app.job_queue.watcher import Watcher
from app.jobs import queries as job_queries
from app.jobs.history_schemas import EventRead
from app.web.streaming import LimitedStreamingResponse

#: Seconds between two keep-alive comments.
HEARTBEAT_SECONDS = 15.0
#: Seconds after which a stream ends. Clients reconnect and resume, so nothing is lost.
MAX_STREAM_SECONDS = 3600.0
_BATCH = 100


def event_stream(
    request: Request, engine: Engine, watcher: Watcher, tenant_id: str, job_id: str, after: int
) -> LimitedStreamingResponse:
    """Stream the events after number ``after``, and new ones as they are written.

    The stream ends when the job has finished or was deleted, or when the key is no longer valid.
    """
    return LimitedStreamingResponse(
        request,
        _events(request, reader(engine), watcher, tenant_id, job_id, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    request: Request, engine: Engine, watcher: Watcher, tenant_id: str, job_id: str, after: int
) -> AsyncIterator[bytes]:
    def read() -> tuple[JobRow | None, Sequence[Any]]:
        if not is_still_authorized(request):
            return None, ()
        # The job is read first: events written between the two reads are then sent, not skipped.
        with engine.connect() as connection:
            job = job_queries.job(connection, tenant_id, job_id)
            return job, queries.events(connection, job_id, after, _BATCH)

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
            # Without an id: progress is no event that a client can resume after.
            yield format_sse_event(
                data_str=JobProgress.of(job).model_dump_json(), event="progress"
            )  # fmt: skip
        shown_version = version = int(job.version)
        if not await watcher.wait(job_id, partial(_differs, version), HEARTBEAT_SECONDS):
            yield KEEPALIVE_COMMENT


def _differs(version: int, state: State) -> bool:
    return state.version != version
