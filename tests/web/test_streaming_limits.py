"""Limits of streaming responses: their number per API key, and clients that do not read."""

from __future__ import annotations

import errno
import socket

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.auth.rate_limit import ConcurrencyLimiter
from app.cli import serve
from app.core.settings import Settings
from tests.world import World


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


def test_open_responses_are_counted_until_they_end(
    app: FastAPI, client: TestClient, paths: dict[str, str]
) -> None:
    app.state.rates.open_answers = ConcurrencyLimiter(1)
    headers = {"Accept": "text/event-stream"}
    for path in [*paths.values()] * 2:
        assert client.get(path, headers=headers).status_code == 200
        assert open_by_key(app) == {}


def test_too_many_open_responses_are_rejected(
    app: FastAPI, client: TestClient, paths: dict[str, str]
) -> None:
    app.state.rates.open_answers = ConcurrencyLimiter(0)
    headers = {"Accept": "text/event-stream"}
    for name, path in paths.items():
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), name
        assert answer.headers["retry-after"] == "5"
    assert client.head(paths["file"]).status_code == 200
    assert client.get(paths["stream"]).status_code == 200  # a page of events, not a stream


def test_rejected_download_is_not_in_the_audit_log(
    app: FastAPI, client: TestClient, paths: dict[str, str]
) -> None:
    app.state.rates.open_answers = ConcurrencyLimiter(0)
    assert client.get(paths["archive"]).status_code == 429
    actions = [entry["action"] for entry in client.get("/v1/audit").json()["data"]]
    assert "adapter.download" not in actions
    app.state.rates.open_answers = ConcurrencyLimiter(1)
    assert client.get(paths["archive"]).status_code == 200
    actions = [entry["action"] for entry in client.get("/v1/audit").json()["data"]]
    assert actions.count("adapter.download") == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_kernel_closes_the_connection_of_a_client_that_does_not_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "STALLED_MS", 1000)
    with serve._listen(settings.model_copy(update={"port": 0})) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):  # and never reads
            connection, _ = listener.accept()
            connection.settimeout(30)
            with connection, pytest.raises(TimeoutError) as gone:
                connection.sendall(b"x" * (64 << 20))
            assert gone.value.errno == errno.ETIMEDOUT  # raised by the kernel, not by settimeout
