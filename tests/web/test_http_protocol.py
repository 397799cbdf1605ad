"""Bounds of the HTTP protocol, tried with raw sockets against a real server."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import psutil
import pytest
import uvicorn

from app.web import http_protocol
from app.web.http_protocol import BoundedHttpProtocol
from tests.services import free_port, wait_until

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def echo_length(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of body bytes; lifespan events are ignored."""
    if scope["type"] != "http":
        return
    size, is_more = 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, is_more = size + len(message["body"]), message["more_body"]
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
    text = str(size).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short timeouts."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(http_protocol, "BODY_WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(BoundedHttpProtocol, "max_connections", 20)
    with serving(echo_length) as number:
        yield number


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve an application, and yield the port."""
    number = free_port()
    config = uvicorn.Config(
        app, port=number, http=BoundedHttpProtocol, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until("the server", lambda: server.started)
    try:
        yield number
    finally:
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def send_all(port: int, pieces: Iterator[bytes]) -> bytes:
    """Send until the server closes; return everything that it sent."""
    with closing(connect(port)) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has closed; its answer may still be readable
        try:
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionResetError:
            return b""


def endless(start: bytes, piece: bytes, megabytes: int = 64) -> Iterator[bytes]:
    yield start
    for _ in range(megabytes * (1 << 20) // len(piece)):
        yield piece


ENDLESS = {
    "one header value": (HEAD + b"X: ", b"a" * 65536),
    "one header name": (HEAD + b"X", b"a" * 65536),
    "many headers": (HEAD, b"X: a\r\n" * 10_000),
    "request line": (b"GET /", b"a" * 65536),
    "query": (b"GET /?", b"[" * 65536),
    "second request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + HEAD + b"X: ", b"a" * 65536),
    "trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 65536),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n" * 10_000),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"a" * 65536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_part_ends_the_connection(name: str, port: int) -> None:
    before = psutil.Process().memory_info().rss
    answer = send_all(port, endless(*ENDLESS[name]))
    assert psutil.Process().memory_info().rss - before < 32 << 20
    # A reset may destroy the answer on its way: the client still had bytes to send.
    assert answer == b"" or b" 431 " in answer or b" 400 " in answer


def test_more_headers_than_allowed_are_a_431(port: int) -> None:
    answer = send_all(port, iter([HEAD + b"X: a\r\n" * 200 + b"\r\n"]))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "header_too_large"' in answer


def test_large_head_within_the_bound_and_large_body_are_served(port: int) -> None:
    body = b"b" * 3_000_000
    head = HEAD + b"X: " + b"a" * 20_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    with closing(connect(port)) as client:
        for _ in range(2):  # the second request uses the connection again
            client.sendall(head + body)
            assert b"\r\n\r\n3000000" in client.recv(65536)


def test_small_chunks_are_served(port: int) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with closing(connect(port)) as client:
        client.sendall(head + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
        assert client.recv(65536).endswith(b"50000")


def test_request_that_begins_in_the_last_piece_of_a_body_is_served(port: int) -> None:
    """A client may use a connection again before the server has read the last bytes."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [
        head + b"186a0\r\n" + b"b" * 100_000 + b"\r\n",
        b"0\r\n\r\n" + head + b"1\r\nb\r\n",
        b"0\r\n\r\n",
    ]
    with closing(connect(port)) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.1)  # so that the server reads each by itself
        received = b""
        while not received.endswith(b"\r\n\r\n1"):
            piece = client.recv(65536)
            assert piece, received
            received += piece
    assert b"\r\n\r\n100000" in received


SLOW: dict[str, tuple[bytes, bytes]] = {
    "no byte": (b"", b""),
    "half a head": (HEAD, b"X"),
    "half a body": (HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    "second head": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /", b"a"),
}


@pytest.mark.parametrize("name", SLOW)
def test_unfinished_request_is_closed(name: str, port: int) -> None:
    start, drip = SLOW[name]
    with closing(connect(port)) as client:
        client.sendall(start)
        client.settimeout(0.1)
        heard = b""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if not (piece := client.recv(65536)):
                    break
                heard += piece
            except TimeoutError:
                client.sendall(drip)
            except ConnectionResetError:
                break
        else:
            pytest.fail("the connection stayed open")
    assert name == "no byte" or b" 408 " in heard


def test_client_is_not_blamed_for_a_slow_application(port: int) -> None:
    body = b"b" * 400_000
    head = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with closing(connect(port)) as client:
        client.sendall(head + body)
        assert client.recv(65536).endswith(b"400000")


def test_connections_beyond_the_limit_are_refused_and_others_are_served(port: int) -> None:
    clients = [connect(port) for _ in range(20)]
    try:
        clients[0].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert clients[0].recv(65536).startswith(b"HTTP/1.1 200 ")
        with closing(connect(port)) as refused:
            answer = b"".join(iter(lambda: refused.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5" in answer
    finally:
        for client in clients:
            client.close()
    wait_until("a place", lambda: b" 200 " in send_all(port, _one_request()))


def _one_request() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("soft", "hard", "is_expected"),
    [
        (1024, 1 << 20, lambda n: n == http_protocol.MAX_CONNECTIONS),
        (1024, 1024, lambda n: n == 1024 - http_protocol.RESERVED_DESCRIPTORS),
        (100, 100, lambda n: n == 50),
        (1 << 20, 1 << 20, lambda n: n >= http_protocol.MAX_CONNECTIONS),
        (1024, resource.RLIM_INFINITY, lambda n: n == http_protocol.MAX_CONNECTIONS),
    ],
)
def test_connection_limit_leaves_descriptors(
    soft: int, hard: int, is_expected: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert is_expected(http_protocol.connection_limit())


def test_spread_calls_are_made_in_order_and_few_in_a_pass() -> None:
    passes: list[list[int]] = []

    async def count_passes() -> None:
        calls = http_protocol.SpreadCalls(3)
        made: list[int] = []
        for number in range(8):
            calls.add(asyncio.get_running_loop(), partial(made.append, number))
        while sum(map(len, passes)) < 8:
            await asyncio.sleep(0)
            passes.append(made.copy())
            made.clear()

    asyncio.run(asyncio.wait_for(count_passes(), 10))

    assert [number for made in passes for number in made] == list(range(8))
    assert max(map(len, passes)) == 3


def test_connections_that_are_lost_at_once_make_room(port: int) -> None:
    for _ in range(3):  # 45 in all, and the limit is 20
        many = [socket.create_connection(("127.0.0.1", port)) for _ in range(15)]
        for each in many:
            each.sendall(HEAD)
        for each in many:
            each.close()
        wait_until("room for new connections", lambda: _is_served(port))


def _is_served(port: int) -> bool:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\nab")
        return connection.recv(100).startswith(b"HTTP/1.1 200")


class Streams:
    """Streams bytes until the client leaves; keeps how each response ended."""

    def __init__(self) -> None:
        self.ends: list[Exception | None] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        """Send a piece every few milliseconds."""
        leaving = asyncio.create_task(self._wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while not leaving.done():
                await send({"type": "http.response.body", "body": b"tea", "more_body": True})
                await asyncio.sleep(0.005)
        except Exception as error:
            self.ends.append(error)
            raise
        self.ends.append(None)

    async def _wait_for_disconnect(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_client_that_leaves_during_a_response_causes_no_error(
    requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application may learn of it late, and the request may not be the last one."""

    def add_late(_: object, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        loop.call_later(0.2, call)

    monkeypatch.setattr(http_protocol.SpreadCalls, "add", add_late)
    streams = Streams()
    with serving(streams) as port:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * requests)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until("the end of the response", lambda: bool(streams.ends))
    assert streams.ends == [None]


def test_refused_head_does_not_interrupt_the_response_before_it() -> None:
    """Neither if another request waits between them."""
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    large = b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * (2 * http_protocol.MAX_HEAD_BYTES)
    received = b""
    with (
        serving(Streams()) as port,
        closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection,
    ):
        connection.sendall(good)
        received += connection.recv(100)
        connection.sendall(good + large)
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                received += piece
    assert received.count(b"HTTP/1.1 ") == 1
