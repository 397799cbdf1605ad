"""Fixtures: a service that may send webhooks to this machine, and a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.webhooks.delivery import Sender
from tests.webhooks.receiver import Receiver, receiving


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that allow loopback. The service sends nothing by itself; the tests do."""
    return settings.model_copy(
        update={
            "reconcile_seconds": 3600,
            "webhook_hosts": frozenset({"hooks.example.com"}),
            "webhook_allow_loopback": True,
        }
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that receives messages."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(settings: Settings) -> Sender:
    return Sender(settings)


@pytest.fixture
def hook(client: TestClient, receiver: Receiver) -> dict[str, Any]:
    """A webhook of "acme" with the receiver's URL, and its secret."""
    answer = client.post("/v1/webhooks", json={"url": receiver.url})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture
def make_due(engine: Engine) -> Callable[[], None]:
    """A function that makes all pending messages due."""

    def make() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE webhook_deliveries SET next_attempt_at = 0")

    return make
