"""A proxy that loses responses, to test clients on an unreliable connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_HOP = {"connection", "transfer-encoding", "keep-alive", "host", "server", "date"}


@dataclass(frozen=True)
class Passed:
    """A request that the proxy received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Fault:
    """How the proxy treats one request."""

    is_forwarded: bool = True
    """Whether the request is forwarded to the service."""
    sent_bytes: int = 0
    """Bytes of the response body to forward before closing the connection; 0: no headers either."""


#: Returns the treatment of each request by its number from 0; None: forward it.
Script = Callable[[int, Passed], Fault | None]


@dataclass
class Line:
    """The URL of the proxy and the requests that it received."""

    url: str
    requests: list[Passed] = field(default_factory=list)

    def sent(self, method: str, path: str) -> list[Passed]:
        """Return the requests with this method and path."""
        return [r for r in self.requests if (r.method, r.path.partition("?")[0]) == (method, path)]


@contextmanager
def bad_line(upstream: str, script: Script) -> Iterator[Line]:
    """Run a proxy for ``upstream`` that treats requests according to ``script``."""
    line = Line("")
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            passed = Passed(self.command, self.path, dict(self.headers), self._body())
            with guard:
                number = len(line.requests)
                line.requests.append(passed)
            fault = script(number, passed)
            if fault is not None and not fault.is_forwarded:
                self._hang_up()
                return
            self._forward(passed, fault)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def _forward(self, passed: Passed, fault: Fault | None) -> None:
            headers = {k: v for k, v in passed.headers.items() if k.lower() not in _HOP}
            with httpx.stream(
                passed.method,
                f"{upstream}{passed.path}",
                headers=headers,
                content=passed.body,
                timeout=90,
            ) as answer:
                if fault is not None and fault.sent_bytes == 0:
                    answer.read()  # the service has processed it, but the response is lost
                    self._hang_up()
                    return
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in _HOP:
                        self.send_header(name, value)
                self.end_headers()
                self._copy(answer, None if fault is None else fault.sent_bytes)

        def _copy(self, answer: httpx.Response, limit: int | None) -> None:
            sent = 0
            for chunk in answer.iter_raw():
                part = chunk if limit is None else chunk[: limit - sent]
                self.wfile.write(part)
                self.wfile.flush()
                sent += len(part)
                if sent == limit:
                    self._hang_up()
                    return

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _hang_up(self) -> None:
            self.close_connection = True
            # Close immediately: the normal end of the handler would wait for the client.
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore errors: tests close connections on purpose."""

    with Server(("127.0.0.1", 0), Handler) as server:
        line.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield line
        finally:
            server.shutdown()
            thread.join()


def losing_answers(method: str, count: int = 1) -> Script:
    """Lose the first responses to this method, after the service has carried out the requests."""
    lost = 0

    def script(_: int, passed: Passed) -> Fault | None:
        nonlocal lost
        if passed.method != method or lost == count:
            return None
        lost += 1
        return Fault()

    return script
