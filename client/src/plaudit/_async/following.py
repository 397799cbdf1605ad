"""Follows a job or an evaluation: until it ends, event by event, line by line."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import httpx

from plaudit._async.concurrency import sleep
from plaudit._async.job import AsyncJob
from plaudit._async.pages import AsyncItems, AsyncPage
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path, unexpected
from plaudit._progress import ProgressLine, describe
from plaudit._sse import EventDecoder
from plaudit.errors import APIError, ConnectionFailedError, WaitTimeoutError
from plaudit.models import EventRead, JobRead, LogPiece

ENDED = frozenset({"succeeded", "failed", "cancelled"})
#: Below the minute after which proxies commonly give up on an answer.
POLL_SECONDS = 55.0
#: For an answer that the service sends at the end of a poll.
MARGIN_SECONDS = 30.0
#: Between two looks at a job whose steps follow each other quickly.
LEAST_SECONDS = 0.5
#: The service sends something every 15 seconds.
SILENCE_SECONDS = 60.0

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
    """The job once it ended or is paused; see ``AsyncJobs.wait``."""
    line = ProgressLine() if progress is True else None
    tell = line or (progress if callable(progress) else None)
    try:
        return await _wait(transport, bind, job_id, tell, timeout)
    finally:
        if line is not None:
            line.close()


async def _wait(
    transport: AsyncTransport,
    bind: Bind,
    job_id: str,
    tell: OnProgress | None,
    timeout: float | None,
) -> AsyncJob:
    ends_at = None if timeout is None else time.monotonic() + timeout
    job, tag = await _look(transport, job_id, None, 0, None)
    assert job is not None
    while True:
        bind(job)
        if tell is not None:
            tell(job)
        if job.status in ENDED or job.status == "paused":
            return job
        found = None
        while found is None:  # as long as nothing changed
            left = None if ends_at is None else ends_at - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"{describe(job)}: not at its end after {timeout:g} s.", job)
            found, tag = await _look(transport, job_id, tag if tell else None, POLL_SECONDS, left)
        job = found


async def _look(
    transport: AsyncTransport, job_id: str, tag: str | None, poll: float, left: float | None
) -> tuple[AsyncJob | None, str]:
    """The job and its tag: when it ended, or with a tag when it is different; None: it is not."""
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
        # The first look is like any other request: an unknown job or address shows at once.
        retries=transport.config.patience.retries.during_outage(left) if seconds else None,
    )
    response = await transport.send(call)
    if (rest := started_at + LEAST_SECONDS - time.monotonic()) > 0 and seconds > LEAST_SECONDS:
        await sleep(rest)
    is_same = response.status_code == httpx.codes.NOT_MODIFIED
    tag = response.headers.get("ETag", tag or "")
    return None if is_same else parse(AsyncJob, response), tag or ""


def events(
    transport: AsyncTransport, address: str, after: int, *, follow: bool
) -> AsyncIterator[EventRead]:
    """Events at an address above number ``after``; see ``AsyncJobs.events``."""
    return _live(transport, address, after) if follow else _past(transport, address, after)


async def _past(transport: AsyncTransport, address: str, after: int) -> AsyncIterator[EventRead]:
    call = Call("GET", address, {"after": after, "limit": 1000})
    async for event in AsyncItems(transport, call, EventRead):
        yield event


async def _live(transport: AsyncTransport, address: str, after: int) -> AsyncIterator[EventRead]:
    """Events until the job ends, over as many connections as it takes."""
    call = Call("GET", address, read_seconds=SILENCE_SECONDS)
    patient = replace(call, retries=transport.config.patience.retries.during_outage())
    # Until the first answer like any other request: an unknown job or address shows at once.
    attempts = transport.attempts(call)
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        decoder, last_type = EventDecoder(), ""
        try:
            async with transport.open(replace(call, headers=headers)) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise unexpected(response, "not a stream of events")
                async for chunk in response.aiter_bytes():
                    attempts = transport.attempts(patient)
                    for event in _events(decoder, chunk, response):
                        after, last_type = event.id, event.type
                        yield event
        except (APIError, ConnectionFailedError) as error:
            await transport.pause(attempts, error)
        else:
            # The stream ends with its job, which the next answer confirms, or with the service.
            if last_type not in ENDED:
                await sleep(decoder.retry_seconds or LEAST_SECONDS)


async def logs(
    transport: AsyncTransport, job_id: str, after: str | None, tail: int | None, *, follow: bool
) -> AsyncIterator[LogPiece]:
    """Pieces of the log, oldest first; see ``AsyncJobs.logs``."""
    address = path("/v1/jobs/{}/logs", job_id)
    query: dict[str, object] = {"tail": tail} if tail else {"after": after, "limit": 1000}
    is_live, retries = follow, None
    while True:
        if is_live:  # asked first: what an ended job said last is there already
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
        await sleep(LEAST_SECONDS)
        query = {"after": after, "limit": 1000}
        retries = transport.config.patience.retries.during_outage()


def _events(decoder: EventDecoder, chunk: bytes, response: httpx.Response) -> Iterator[EventRead]:
    """The events that these bytes complete; without progress, which has no number."""
    for found in decoder.feed(chunk):
        if found.id is None:
            continue
        try:
            yield EventRead.of_answer(json.loads(found.data))
        except ValueError as error:
            reason = f"an event of another form: {found.data[:200]}"
            raise unexpected(response, reason) from error
