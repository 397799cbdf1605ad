"""Many messages at once: receivers that do not respond do not delay the others."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.settings import Settings
from app.main import create_app
from app.webhooks import delivery, outbox, service
from app.webhooks.circuits import MAX_PAUSE_SECONDS, MAX_SILENT, PAUSE_SECONDS, Circuits
from app.webhooks.delivery import Sender
from app.webhooks.dispatch import MAX_AT_ONCE, MAX_PER_WEBHOOK, Dispatcher
from tests.services import wait_until
from tests.webhooks.receiver import Receiver, receiving

URL = "https://hooks.example.com/a"


def add_webhooks(engine: Engine, tenant: str, url: str, count: int, messages: int) -> None:
    """Create webhooks with messages that are due."""
    with transaction(engine) as session:
        for _ in range(count):
            webhook = service.create(session, tenant, url, ["job.failed"])
            for _ in range(messages):
                outbox.enqueue_test(session, webhook)


def claimed(dispatcher: Dispatcher) -> Counter[str]:
    """Claim until there is no place; return the messages of each tenant."""
    found: Counter[str] = Counter()
    while messages := dispatcher.claim():
        found.update(message.webhook.tenant_id for message in messages)
    return found


def test_tenants_share_the_places(engine: Engine, sender: Sender) -> None:
    add_webhooks(engine, "acme", URL, 20, 3)
    dispatcher = Dispatcher(engine, sender)
    assert claimed(dispatcher) == {"acme": MAX_AT_ONCE // 2}
    add_webhooks(engine, "other", URL, 1, 3)
    assert claimed(dispatcher) == {"other": MAX_PER_WEBHOOK}


def test_tenants_take_turns(engine: Engine, sender: Sender) -> None:
    for tenant in ("acme", "other", "third"):
        add_webhooks(engine, tenant, URL, 20, 1)
    found = claimed(Dispatcher(engine, sender))
    assert sorted(found.values()) == [16, 16, 16]


def test_silent_receivers_do_not_delay_other_tenants(
    settings: Settings, engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 600)
    eager = settings.model_copy(update={"reconcile_seconds": 0.05})
    with receiving() as silent:
        silent.released.clear()
        add_webhooks(engine, "acme", silent.url, 20, 3)
        with TestClient(create_app(eager)):
            wait_until("the silent receivers", lambda: len(silent.requests) == MAX_AT_ONCE // 2)
            add_webhooks(engine, "other", receiver.url, 1, 5)
            wait_until("the other tenant's messages", lambda: len(receiver.requests) == 5)
            silent.released.set()


def test_url_that_does_not_respond_is_left_alone_for_a_while() -> None:
    now = 1000.0
    circuits = Circuits(lambda: now)
    for _ in range(MAX_SILENT):
        assert not circuits.is_open(URL)
        circuits.record(URL, has_responded=False)
        assert circuits.is_suspect(URL)
    pauses = []
    for _ in range(10):
        assert circuits.is_open(URL)
        assert not circuits.is_open("https://hooks.example.com/b")
        start = now
        while circuits.is_open(URL):
            now += 1.0
        pauses.append(now - start)
        circuits.record(URL, has_responded=False)
    assert pauses[0] == PAUSE_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_SECONDS
    circuits.record(URL, has_responded=True)
    assert not circuits.is_open(URL)
    assert not circuits.is_suspect(URL)


def test_message_to_a_url_with_an_open_circuit_waits(engine: Engine, sender: Sender) -> None:
    add_webhooks(engine, "acme", URL, 1, 1)
    dispatcher = Dispatcher(engine, sender)
    for _ in range(MAX_SILENT):
        dispatcher._circuits.record(URL, has_responded=False)
    assert dispatcher.claim() == []
    dispatcher._circuits.record(URL, has_responded=True)
    assert len(dispatcher.claim()) == 1
