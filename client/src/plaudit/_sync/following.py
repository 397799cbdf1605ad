# Generated from ../_async/following.py by `make client-models`. Do not edit.
"""Follows a job or an evaluation: until it ends, event by event, line by line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx

from plaudit._calls import Call, parse, path, unexpected
from plaudit._progress import ProgressLine, describe
from plaudit._sse import EventDecoder
from plaudit._sync.concurrency import sleep
from plaudit._sync.job import Job
from plaudit._sync.pages import Items, Page
from plaudit._sync.transport import Transport
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

OnProgress = Callable[[Job], object]
Bind = Callable[[Job], Job]


def wait(
    transport: Transport,
    bind: Bind,
    job_id: str,
    *,
    progress: bool | OnProgress,
    timeout: float | None,
) -> Job:
    """The job once it ended or is paused; see ``AsyncJobs.wait``."""
    line = ProgressLine() if progress is True else None
    tell = line or (progress if callable(progress) else None)
    try:
        return _wait(transport, bind, job_id, tell, timeout)
    finally:
        if line is not None:
            line.close()


def _wait(
    transport: Transport,
    bind: Bind,
    job_id: str,
    tell: OnProgress | None,
    timeout: float | None,
) -> Job:
    ends_at = None if timeout is None else time.monotonic() + timeout
    job, tag = _look(transport, job_id, None, 0, None)
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
            found, tag = _look(transport, job_id, tag if tell else None, POLL_SECONDS, left)
        job = found


def _look(
    transport: Transport, job_id: str, tag: str | None, poll: float, left: float | None
) -> tuple[Job | None, str]:
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
    response = transport.send(call)
    if (rest := started_at + LEAST_SECONDS - time.monotonic()) > 0 and seconds > LEAST_SECONDS:
        sleep(rest)
    is_same = response.status_code == httpx.codes.NOT_MODIFIED
    tag = response.headers.get("ETag", tag or "")
    return None if is_same else parse(Job, response), tag or ""


def events(transport: Transport, address: str, after: int, *, follow: bool) -> Iterator[EventRead]:
    """Events at an address above number ``after``; see ``AsyncJobs.events``."""
    return _live(transport, address, after) if follow else _past(transport, address, after)


def _past(transport: Transport, address: str, after: int) -> Iterator[EventRead]:
    call = Call("GET", address, {"after": after, "limit": 1000})
    for event in Items(transport, call, EventRead):
        yield event


def _live(transport: Transport, address: str, after: int) -> Iterator[EventRead]:
    """Events until the job ends, over as many connections as it takes."""
    call = Call("GET", address, read_seconds=SILENCE_SECONDS)
    patient = replace(call, retries=transport.config.patience.retries.during_outage())
    # Until the first answer like any other request: an unknown job or address shows at once.
    attempts = transport.attempts(call)
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        decoder, last_type = EventDecoder(), ""
        try:
            with transport.open(replace(call, headers=headers)) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise unexpected(response, "not a stream of events")
                for chunk in response.iter_bytes():
                    attempts = transport.attempts(patient)
                    for event in _events(decoder, chunk, response):
                        after, last_type = event.id, event.type
                        yield event
        except (APIError, ConnectionFailedError) as error:
            transport.pause(attempts, error)
        else:
            # The stream ends with its job, which the next answer confirms, or with the service.
            if last_type not in ENDED:
                sleep(decoder.retry_seconds or LEAST_SECONDS)


def logs(
    transport: Transport, job_id: str, after: str | None, tail: int | None, *, follow: bool
) -> Iterator[LogPiece]:
    """Pieces of the log, oldest first; see ``AsyncJobs.logs``."""
    address = path("/v1/jobs/{}/logs", job_id)
    query: dict[str, object] = {"tail": tail} if tail else {"after": after, "limit": 1000}
    is_live, retries = follow, None
    while True:
        if is_live:  # asked first: what an ended job said last is there already
            call = Call("GET", path("/v1/jobs/{}", job_id), retries=retries)
            job = parse(JobRead, transport.send(call))
            is_live = job.status not in ENDED and job.status != "paused"
        items = Items(transport, Call("GET", address, query, retries=retries), LogPiece)
        page: Page[LogPiece] | None = items.page()
        while page is not None:
            for piece in page.data:
                after = piece.id
                yield piece
            page = items.following(page) if page.next and "tail" not in query else None
        if not is_live:
            return
        sleep(LEAST_SECONDS)
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
