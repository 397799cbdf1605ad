"""Follows a job or an evaluation: waits for its end, and streams its events and its log."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import httpx

from plaudit._async.concurrency import sleep
from plaudit._async.job import AsyncJob
from plaudit._async.pages import AsyncItems, AsyncPage
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path, unexpected
from plaudit._progress import ProgressLine, describe
from plaudit._sse import EventDecoder
from plaudit.errors import APIError, ConnectionFailedError, WaitTimeoutError
from plaudit.models import EvaluationRead, EventRead, JobRead, LogPiece, ScoreBatchRead

ENDED = frozenset({"succeeded", "failed", "cancelled"})
#: Duration of a long poll; proxies commonly time out after 60 seconds.
POLL_SECONDS = 55.0
#: The service's limit for evaluations and score batches.
MAX_WAIT_SECONDS = 30.0
#: Duration of a poll that reports progress.
PROGRESS_SECONDS = 5.0
#: Added to the read timeout of a long poll, for the response at its end.
MARGIN_SECONDS = 30.0
#: Minimum time between two polls of a job that changes quickly.
MIN_INTERVAL_SECONDS = 0.5
#: Read timeout of an event stream; the service sends a keep-alive every 15 seconds.
STREAM_READ_SECONDS = 60.0

Finished = TypeVar("Finished", EvaluationRead, ScoreBatchRead)
OnProgress = Callable[[AsyncJob], object]
Bind = Callable[[AsyncJob], AsyncJob]


async def wait(
    transport: AsyncTransport,
    bind: Bind,
    job_id: str,
    *,
    progress: bool | OnProgress,
    timeout: float | None,
) -> AsyncJob:
    """Wait until the job has ended or is paused, and return it; see ``AsyncJobs.wait``."""
    line = ProgressLine() if progress is True else None
    on_change = line or (progress if callable(progress) else None)
    try:
        return await _wait(transport, bind, job_id, on_change, timeout)
    finally:
        if line is not None:
            line.close()


async def _wait(
    transport: AsyncTransport,
    bind: Bind,
    job_id: str,
    on_change: OnProgress | None,
    timeout: float | None,
) -> AsyncJob:
    ends_at = None if timeout is None else time.monotonic() + timeout
    job, tag = await _poll(transport, job_id, None, 0, None)
    assert job is not None
    while True:
        bind(job)
        if on_change is not None:
            on_change(job)
        if job.status in ENDED or job.status == "paused":
            return job
        found = None
        while found is None:  # until the job has changed
            left = None if ends_at is None else ends_at - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"{describe(job)}: not finished after {timeout:g} s.", job)
            known_tag = tag if on_change else None
            found, tag = await _poll(transport, job_id, known_tag, POLL_SECONDS, left)
        job = found


async def _poll(
    transport: AsyncTransport, job_id: str, tag: str | None, poll: float, left: float | None
) -> tuple[AsyncJob | None, str]:
    """Wait up to ``poll`` seconds, and return the job and its entity tag.

    With ``tag`` returns as soon as the job has changed, or None if it has not; without, as soon as
    the job has ended.
    """
    seconds = poll if left is None else min(poll, left)
    started_at = time.monotonic()
    query: dict[str, object] = {}
    if seconds:
        query = {"wait": round(seconds, 3), "until": "change" if tag else "terminal"}
    call = Call(
        "GET",
        path("/v1/jobs/{}", job_id),
        query,
        headers={"If-None-Match": tag} if tag else {},
        read_seconds=seconds + MARGIN_SECONDS if seconds else None,
        # The first request has the usual limits, so that a wrong id or URL fails soon.
        retries=transport.config.policy.retries.during_outage(left) if seconds else None,
    )
    response = await transport.send(call)
    rest = started_at + MIN_INTERVAL_SECONDS - time.monotonic()
    if rest > 0 and seconds > MIN_INTERVAL_SECONDS:
        await sleep(rest)
    is_same = response.status_code == httpx.codes.NOT_MODIFIED
    tag = response.headers.get("ETag", tag or "")
    return None if is_same else parse(AsyncJob, response), tag or ""


async def wait_finished(
    transport: AsyncTransport,
    model: type[Finished],
    address: str,
    timeout: float | None,
    progress: Callable[[Finished], object] | None = None,
) -> Finished:
    """Wait until an evaluation or a score batch has ended, and return it.

    ``progress`` is called with its state at once, every five seconds, and when it has ended.

    Raises:
        TimeoutError: it has not ended after ``timeout`` seconds.
    """
    started_at = time.monotonic()
    retries = None  # the usual limits, so that a wrong id or URL fails soon
    left: float | None = timeout
    longest = MAX_WAIT_SECONDS if progress is None else 0.0
    while True:
        asked_at = time.monotonic()
        seconds = longest if left is None else max(0.0, min(left, longest))
        call = Call(
            "GET",
            address,
            {"wait": round(seconds, 3)},
            read_seconds=seconds + MARGIN_SECONDS,
            retries=retries,
        )
        found = parse(model, await transport.send(call))
        if progress is not None:
            progress(found)
        if found.status in ENDED:
            return found
        now = time.monotonic()
        left = None if timeout is None else started_at + timeout - now
        if left is not None and left <= 0:
            raise TimeoutError(f"{found.id} is still {found.status} after {timeout:g} s.")
        # A service that is stopping responds at once.
        rest = asked_at + MIN_INTERVAL_SECONDS - now
        if rest > 0:
            await sleep(rest if left is None else min(rest, left))
        retries = transport.config.policy.retries.during_outage(left)
        longest = MAX_WAIT_SECONDS if progress is None else PROGRESS_SECONDS


def events(
    transport: AsyncTransport, address: str, after: int, *, follow: bool
) -> AsyncIterator[EventRead]:
    """Yield the events at a URL path; see ``AsyncJobs.events``."""
    return _live(transport, address, after) if follow else _past(transport, address, after)


async def _past(transport: AsyncTransport, address: str, after: int) -> AsyncIterator[EventRead]:
    call = Call("GET", address, {"after": after, "limit": 1000})
    async for event in AsyncItems(transport, call, EventRead):
        yield event


async def _live(transport: AsyncTransport, address: str, after: int) -> AsyncIterator[EventRead]:
    """Yield events with numbers above ``after`` until the job ends; reconnect when necessary."""
    call = Call("GET", address, read_seconds=STREAM_READ_SECONDS)
    outage_call = replace(call, retries=transport.config.policy.retries.during_outage())
    # The usual limits apply until the first bytes, so that a wrong id or URL fails soon.
    attempts = transport.attempts(call)
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        decoder, last_type = EventDecoder(), ""
        try:
            async with transport.open(replace(call, headers=headers)) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise unexpected(response, "it is not an event stream")
                async for chunk in response.aiter_bytes():
                    attempts = transport.attempts(outage_call)
                    for event in _events(decoder, chunk, response):
                        after, last_type = event.id, event.type
                        yield event
        except (APIError, ConnectionFailedError) as error:
            await transport.pause(attempts, error)
        else:
            # The stream ends when the job ends, which the next response confirms (204), or when
            # the service stops.
            if last_type not in ENDED:
                await sleep(decoder.retry_seconds or MIN_INTERVAL_SECONDS)


async def logs(
    transport: AsyncTransport, job_id: str, after: str | None, tail: int | None, *, follow: bool
) -> AsyncIterator[LogPiece]:
    """Yield pieces of the log, oldest first; see ``AsyncJobs.logs``."""
    address = path("/v1/jobs/{}/logs", job_id)
    query: dict[str, object] = {"tail": tail} if tail else {"after": after, "limit": 1000}
    is_live, retries = follow, None
    while True:
        if is_live:  # read the status first: the log of a job that has ended is complete
            call = Call("GET", path("/v1/jobs/{}", job_id), retries=retries)
            job = parse(JobRead, await transport.send(call))
            is_live = job.status not in ENDED and job.status != "paused"
        items = AsyncItems(transport, Call("GET", address, query, retries=retries), LogPiece)
        page: AsyncPage[LogPiece] | None = await items.page()
        while page is not None:
            for piece in page.data:
                after = piece.id
                yield piece
            page = await items.following(page) if page.next and "tail" not in query else None
        if not is_live:
            return
        await sleep(MIN_INTERVAL_SECONDS)
        query = {"after": after, "limit": 1000}
        retries = transport.config.policy.retries.during_outage()


def _events(decoder: EventDecoder, chunk: bytes, response: httpx.Response) -> Iterator[EventRead]:
    """Yield the events that these bytes complete, except progress events, which have no number."""
    for found in decoder.feed(chunk):
        if found.id is None:
            continue
        try:
            yield EventRead.of_answer(json.loads(found.data))
        except ValueError as error:
            reason = f"it contains an invalid event: {found.data[:200]}"
            raise unexpected(response, reason) from error
