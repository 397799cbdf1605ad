"""The HTTP protocol of the server, with bounds that uvicorn's own protocol lacks.

httptools buffers a request head of any size, and concatenates the pieces of one header, which is
quadratic. uvicorn waits without limit for the first byte, for the end of a head and for the rest of
a body. Each bound here is checked before the bytes reach the parser or the application.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

#: Request line and header fields of one request, and everything in a body that is not content.
MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
#: Seconds from the first moment of a connection, or from the first byte of a later request, until
#: the head is complete.
HEAD_SECONDS = 15.0
#: A body must arrive at this rate, measured over windows in which the server reads.
BODY_WINDOW_SECONDS = 15.0
MIN_BODY_BYTES_PER_WINDOW = 8 << 10
#: Chunk framing may exceed the content by this factor: one-byte chunks have six bytes each.
MAX_FRAMING_FACTOR = 8
MAX_CONNECTIONS = 4096
#: Lost connections that one pass of the event loop handles. Each ends a task, which takes about
#: 0.3 ms in all: a client that leaves 500 streams at once would hold up the others for 0.2 s.
LOST_PER_PASS = 8
#: File descriptors reserved for the database, the broker, files and the listening socket.
RESERVED_DESCRIPTORS = 256


def connection_limit() -> int:
    """Raise the soft limit of file descriptors and return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - RESERVED_DESCRIPTORS, soft // 2)


class SpreadCalls:
    """Makes calls in passes of one event loop, ``per_pass`` at a time, in the order of ``add``."""

    def __init__(self, per_pass: int) -> None:
        self._per_pass = per_pass
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def add(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        """Make the call in one of the next passes of ``loop``."""
        self._waiting.append(call)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._make, loop)

    def _make(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        calls = [self._waiting.popleft() for _ in range(min(self._per_pass, len(self._waiting)))]
        self._schedule(loop)
        for call in calls:
            loop.call_soon(call)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Limit the head, the framing and the duration of every request, and the connections."""

    max_connections = MAX_CONNECTIONS
    #: Of each event loop: a call that waits for a loop must not run in another one.
    _lost: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, SpreadCalls]] = WeakKeyDictionary()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._messages = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._window_bytes = 0
        self._was_paused = False
        self._timer: asyncio.TimerHandle | None = None
        #: The request that is being answered; ``cycle`` is the last one, which may wait behind it.
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too_many_connections", "The server has no free connection.")
            return
        self._start_timer(HEAD_SECONDS, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of the connection, and soon tell the application that the client left."""
        self._stop_timer()
        for cycle in (self._answering, self.cycle):
            if cycle is not None and not cycle.response_complete:
                # At once, so that what the application still sends is dropped: uvloop raises an
                # error when a closed connection is written to.
                cycle.disconnected = True
        lost = self._lost.setdefault(self.loop, SpreadCalls(LOST_PER_PASS))
        lost.add(self.loop, partial(self._end, exc))

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the parser, never more of a head than ``MAX_HEAD_BYTES``."""
        while data and not self.transport.is_closing():
            room = MAX_HEAD_BYTES - self._head_bytes if self._is_in_head else len(data)
            piece, data = data[:room], data[room:]
            was_in_head, message, body_bytes = self._is_in_head, self._messages, self._body_bytes
            if was_in_head:
                self._head_bytes += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._is_in_head:
                if self._head_bytes >= MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
                    self._refuse(
                        431,
                        "header_too_large",
                        f"The request line and headers exceed {MAX_HEAD_BYTES} bytes or "
                        f"{MAX_HEADERS} fields.",
                    )
            elif not was_in_head and message == self._messages:
                self._window_bytes += len(piece)
                self._framing_bytes += len(piece) - (self._body_bytes - body_bytes)
                if self._framing_bytes > MAX_HEAD_BYTES + MAX_FRAMING_FACTOR * self._body_bytes:
                    self._refuse(400, "bad_request", "The body has more framing than content.")

    def on_message_begin(self) -> None:
        """Start to count a new head."""
        super().on_message_begin()
        self._messages += 1
        self._is_in_head, self._head_bytes = True, 0
        if self._timer is None:  # the first request uses the timer of the connection
            self._start_timer(HEAD_SECONDS, self._on_slow_head)

    def on_headers_complete(self) -> None:
        """Start to measure the body."""
        if len(self.headers) > MAX_HEADERS:
            return  # data_received refuses the request; the application must not get it
        self._is_in_head = False
        self._body_bytes = self._framing_bytes = self._window_bytes = 0
        self._was_paused = False
        self._start_timer(BODY_WINDOW_SECONDS, self._on_body_window)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count the content."""
        if self._is_in_head:
            return  # data_received is about to refuse the request
        self._body_bytes += len(body)
        super().on_body(body)
        self._was_paused = self._was_paused or self.flow.read_paused

    def on_message_complete(self) -> None:
        """Stop the timer: from now on the application takes the time."""
        if not self._is_in_head:
            self._stop_timer()
            self._is_in_head, self._head_bytes = True, 0
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _end(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answering is not None:
            self._answering.message_event.set()  # uvicorn sets that of the last request only

    def _on_slow_head(self) -> None:
        # A connection that never sent a byte gets no response, because there is no request.
        if self._head_bytes:
            self._refuse(
                408, "request_timeout", f"The head did not arrive within {HEAD_SECONDS:g} s."
            )
        else:
            self.transport.close()

    def _on_body_window(self) -> None:
        # The client is not too slow if the application did not read, or has not requested the body
        # yet (Expect: 100-continue).
        is_blameless = self._was_paused or self.cycle.waiting_for_100_continue
        if self._window_bytes < MIN_BODY_BYTES_PER_WINDOW and not is_blameless:
            self._refuse(
                408,
                "request_timeout",
                f"The body arrived at less than {MIN_BODY_BYTES_PER_WINDOW} bytes in "
                f"{BODY_WINDOW_SECONDS:g} s.",
            )
            return
        self._window_bytes, self._was_paused = 0, self.flow.read_paused
        self._start_timer(BODY_WINDOW_SECONDS, self._on_body_window)

    def _start_timer(self, seconds: float, call: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Send a problem and close the connection; no further request is read from it."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self._is_answering():
            self.transport.close()  # a second response would corrupt the one being sent
            return
        title = _TITLES[status]
        body = json.dumps(
            {"type": f"/problems/{code}", "title": title, "status": status, "code": code,
             "detail": detail}
        ).encode()  # fmt: skip
        retry = "Retry-After: 5\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {title}\r\n"
            "Content-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}"
            "Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _is_answering(self) -> bool:
        cycle = self._answering
        return cycle is not None and cycle.response_started and not cycle.response_complete


_TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
