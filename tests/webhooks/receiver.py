"""A real HTTP server that records messages and sends prepared responses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext


@dataclass
class ReceivedRequest:
    """A request that the receiver got."""

    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Receiver:
    """The recorded requests, and the responses: ``answers`` in order, then always 204."""

    port: int = 0
    requests: list[ReceivedRequest] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    #: Responses wait until this is set.
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Add a response for a later request."""
        self.answers.append((status, headers, body))


@contextmanager
def receiving(ssl_context: SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver on 127.0.0.1."""
    receiver = Receiver()
    receiver.released.set()

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # else the kernel delays connections that come at once

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(
                ReceivedRequest(self.path, headers, self.rfile.read(size).decode())
            )
            status, extra, body = receiver.answers.pop(0) if receiver.answers else (204, {}, b"")
            receiver.released.wait(60)
            try:
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the sender closed the connection
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if ssl_context is not None:
        server.socket = ssl_context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
