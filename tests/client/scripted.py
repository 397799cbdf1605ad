"""A server that returns the responses of a script in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A status with headers and a body; a body that is not bytes is sent as JSON."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: The connection is closed after this part of the body.
    sent_bytes: int | None = None

    def content(self) -> bytes:
        """Return the bytes of the body."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def problem(status: int, code: str, **headers: str) -> Answer:
    """Return an error response in the service's format."""
    body = {
        "type": f"https://plaudit.example/problems/{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": f"This is {code}.",
        "code": code,
        "instance": "/v1",
        "request_id": "r1",
        "hint": "Do something else.",
        "errors": [{"loc": "/name", "code": "too_long", "message": "long", "hint": "Shorten it."}],
    }
    kind = {"Content-Type": "application/problem+json"}
    return Answer(status, body, kind | headers)


@dataclass
class Scripted:
    """The URL of the server, its remaining responses, and the requests that it received."""

    url: str
    answers: list[Answer]
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def lay_out(self, *answers: Answer) -> None:
        """Replace the responses, and forget the requests."""
        self.answers, self.asked = list(answers), []


@contextmanager
def scripted(*answers: Answer) -> Iterator[Scripted]:
    """Run a server that returns these responses, and repeats the last one."""
    guard = threading.Lock()
    state = Scripted("", list(answers))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self._read_body()
            with guard:
                state.asked.append((self.command, self.path, dict(self.headers)))
                found = state.answers[0] if len(state.answers) == 1 else state.answers.pop(0)
            content = found.content()
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            if found.status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD" and found.status not in (204, 304):
                self.wfile.write(content[: found.sent_bytes])

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

        def _read_body(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    self.rfile.read(size + 2)
                self.rfile.readline()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
