"""A scorer that resets connections loses no request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvloop
from sqlalchemy import Engine

from app.core.database import transaction
from app.core.settings import Settings
from app.domain.scoring import ScoredItem, ScoredWork, ScoreItem, ScoreWork
from app.models import Scorer
from app.scoring.dispatcher import Dispatcher
from tests.resetting import resetting_server

REQUESTS = 256
WORK = ScoreWork(adapters=["ad_0"], items=[ScoreItem(text="tea")])
SCORED = ScoredWork(
    items=[ScoredItem(scores=[[1.0]], tokens=[1], truncated=[False])],
    prompt_tokens=1,
    computed_tokens=1,
)


def respond(connection: socket.socket) -> None:
    content = SCORED.model_dump_json()
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    with connection:
        connection.recv(1 << 16)
        connection.sendall((head + content).encode())


@pytest.fixture
def scorer(engine: Engine, settings: Settings) -> Iterator[None]:
    with resetting_server(respond) as port:
        url = f"http://127.0.0.1:{port}"
        with transaction(engine) as session:
            session.add(Scorer(id=url, queue=settings.queue, url=url, state="ready"))
        yield


@pytest.mark.usefixtures("scorer")
def test_reset_connections_lose_no_request(engine: Engine, settings: Settings) -> None:
    uvloop.run(send_all(Dispatcher(settings, engine)))  # the event loop of the service


async def send_all(dispatcher: Dispatcher) -> None:
    try:
        sent = (dispatcher.score(WORK, 10) for _ in range(REQUESTS))
        assert await asyncio.gather(*sent) == [SCORED] * REQUESTS
    finally:
        await dispatcher.close()
