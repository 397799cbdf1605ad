"""Streams and downloads: so many at once for a key, and given up when the client takes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from app import open_answers
from app.open_answers import OpenAnswer
from app.rates import AtOnce
from app.security import Principal
from tests.api.world import World


def open_by_key(app: FastAPI) -> dict[str, int]:
    return dict(app.state.rates.open_answers._open)


@pytest.fixture
def paths(world: World) -> dict[str, str]:
    job = world.submit()
    adapter = world.publish(world.claim(), {"README.md": b"# Card"})
    return {
        "stream": f"/v1/jobs/{job['id']}/events",
        "file": f"/v1/adapters/{adapter}/files/README.md",
        "archive": f"/v1/adapters/{adapter}/archive",
        "dataset": f"/v1/datasets/{job['spec']['train_dataset']}/content",
    }


def test_what_is_open_is_counted_until_it_ends(
    app: FastAPI, client: TestClient, paths: dict[str, str]
) -> None:
    app.state.rates.open_answers = AtOnce(1)
    headers = {"Accept": "text/event-stream"}
    for path in [*paths.values()] * 2:
        assert client.get(path, headers=headers).status_code == 200
        assert open_by_key(app) == {}


def test_key_with_too_much_open_is_told_to_wait(
    app: FastAPI, client: TestClient, paths: dict[str, str]
) -> None:
    app.state.rates.open_answers = AtOnce(0)
    headers = {"Accept": "text/event-stream"}
    for name, path in paths.items():
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), name
        assert answer.headers["retry-after"] == "5"
    assert client.head(paths["file"]).status_code == 200
    assert client.get(paths["stream"]).status_code == 200  # a page of events, not a stream


def test_client_that_takes_nothing_is_given_up(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_answers, "STALLED_SECONDS", 0.05)
    sent: list[Any] = []

    async def read() -> Any:
        for _ in range(3):
            yield b"x"

    async def serve() -> None:
        async def receive() -> Any:
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 2:
                await asyncio.sleep(3600)

        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": "/x", "headers": [], "app": app,
            "principal": Principal("key_1", "acme", frozenset()),
        }  # fmt: skip
        await asyncio.wait_for(OpenAnswer(Request(scope), read())(scope, receive, send), 10)

    asyncio.run(serve())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert open_by_key(app) == {}
