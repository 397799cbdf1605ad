"""Delivery of webhook messages: signatures, retries and disabling."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from starlette.testclient import TestClient

from app.core.database import transaction
from app.core.settings import Settings
from app.main import create_app
from app.models import WebhookDelivery
from app.webhooks import delivery, outbox
from app.webhooks.delivery import (
    DISABLE_AFTER_MS,
    Outcome,
    Sender,
)
from app.webhooks.outbox import BACKOFF_MAX_MS, MAX_ATTEMPTS, retry_delay_ms
from tests.services import wait_until
from tests.webhooks.delivering import deliver_due
from tests.webhooks.receiver import ReceivedRequest, Receiver
from tests.world import World


def verify(secret: str, request: ReceivedRequest) -> Any:
    """Verify a message with the library that receivers use, and return it."""
    return Verifier(secret).verify(request.body, request.headers)


def deliveries(client: TestClient, hook: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/webhooks/{hook['id']}/deliveries")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def test_message_is_signed_and_contains_the_job(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender,
) -> None:  # fmt: skip
    job = world.submit(name="Größe ☃")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    receiver.answer(200, b"thanks")
    assert deliver_due(engine, sender) == 1
    assert deliver_due(engine, sender) == 0

    (request,) = receiver.requests
    assert (request.path, request.headers["content-type"]) == ("/hook", "application/json")
    message = verify(hook["secret"], request)
    assert message["type"] == "job.cancelled"
    assert message["data"]["name"] == "Größe ☃"
    with pytest.raises(WebhookVerificationError):
        verify(hook["secret"], ReceivedRequest(request.path, request.headers, request.body + " "))

    (shown,) = deliveries(client, hook)
    assert shown["id"] == request.headers["webhook-id"]
    assert shown["created_at"] == message["timestamp"]
    assert (shown["status"], shown["attempts"], shown["next_attempt_at"]) == (
        "delivered",
        1,
        None,
    )
    assert (
        shown["response_status"],
        shown["response_body"],
        shown["error"],
    ) == (
        200,
        "thanks",
        None,
    )


def test_both_secrets_sign_until_the_old_one_expires(
    hook: dict[str, Any], client: TestClient, engine: Engine, receiver: Receiver, sender: Sender
) -> None:
    fresh = client.post(f"/v1/webhooks/{hook['id']}/rotate-secret").json()
    assert fresh["secret"] != hook["secret"]
    client.post(f"/v1/webhooks/{hook['id']}/test")
    deliver_due(engine, sender)
    for secret in (fresh["secret"], hook["secret"]):
        assert verify(secret, receiver.requests[0])["type"] == "webhook.test"

    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE webhooks SET old_secret_expires_at = 1")
    client.post(f"/v1/webhooks/{hook['id']}/test")
    deliver_due(engine, sender)
    assert verify(fresh["secret"], receiver.requests[1])["type"] == "webhook.test"
    with pytest.raises(WebhookVerificationError):
        verify(hook["secret"], receiver.requests[1])


def test_failed_message_is_retried_unchanged(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender, make_due: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(outbox, "retry_delay_ms", lambda _: 60_000)
    world.submit()
    world.claim()
    receiver.answer(500, b"broken")
    receiver.answer(302, location=receiver.url)
    deliver_due(engine, sender)
    assert deliver_due(engine, sender) == 0  # the retry is not due yet
    (shown,) = deliveries(client, hook)
    assert (shown["status"], shown["error"]) == ("pending", "the response had status 500")
    assert shown["response_body"] == "broken"
    assert shown["next_attempt_at"] > shown["last_attempt_at"]
    assert client.get(f"/v1/webhooks/{hook['id']}").json()["failing_since"] is not None

    for _ in range(2):
        make_due()
        deliver_due(engine, sender)
    (shown,) = deliveries(client, hook)
    assert (shown["status"], shown["attempts"]) == ("delivered", 3)
    assert len({request.body for request in receiver.requests}) == 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    for request in receiver.requests:
        verify(hook["secret"], request)
    assert client.get(f"/v1/webhooks/{hook['id']}").json()["failing_since"] is None


def test_message_fails_after_eight_attempts(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender, make_due: Callable[[], None],
) -> None:  # fmt: skip
    world.submit()
    world.claim()
    for _ in range(MAX_ATTEMPTS + 2):
        receiver.answer(503)
        make_due()
        deliver_due(engine, sender)
    assert len(receiver.requests) == MAX_ATTEMPTS == 8
    (shown,) = deliveries(client, hook)
    assert (shown["status"], shown["attempts"]) == ("failed", 8)
    assert (
        client.get(f"/v1/webhooks/{hook['id']}").json()["disabled_at"] is None
    )  # it has not failed for days


def test_webhook_is_disabled_after_days_of_failures_and_enabled_by_a_test(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender, make_due: Callable[[], None],
) -> None:  # fmt: skip
    path = f"/v1/webhooks/{hook['id']}"
    world.submit()
    world.claim()
    receiver.answer(500)
    deliver_due(engine, sender)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE webhooks SET failing_since = failing_since - {DISABLE_AFTER_MS}"
        )
        connection.exec_driver_sql(f"UPDATE webhook_deliveries SET attempts = {MAX_ATTEMPTS - 1}")
    make_due()
    waiting = world.submit()
    client.post(f"/v1/jobs/{waiting['id']}/pause")
    receiver.answer(500)
    deliver_due(engine, sender)
    assert client.get(path).json()["disabled_at"] is not None
    assert {row["status"] for row in deliveries(client, hook)} == {"failed"}
    acts = client.get("/v1/audit").json()["data"]
    assert acts[0]["action"] == "webhook.disable"
    assert (acts[0]["object_id"], acts[0]["key_id"]) == (hook["id"], None)

    client.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert deliver_due(engine, sender) == 0  # a disabled webhook gets no messages

    receiver.answer(500)
    client.post(f"{path}/test")
    deliver_due(engine, sender)
    assert deliver_due(engine, sender) == 0  # a test has one attempt
    assert client.get(path).json()["disabled_at"] is not None
    client.post(f"{path}/test")
    deliver_due(engine, sender)
    now = client.get(path).json()
    assert (now["disabled_at"], now["failing_since"]) == (None, None)


def test_status_410_disables_the_webhook_at_once(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender,
) -> None:  # fmt: skip
    world.submit()
    world.claim()
    receiver.answer(410)
    deliver_due(engine, sender)
    assert client.get(f"/v1/webhooks/{hook['id']}").json()["disabled_at"] is not None


def test_message_of_a_dead_sender_is_sent_by_another_one(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine, receiver: Receiver,
    sender: Sender, make_due: Callable[[], None],
) -> None:  # fmt: skip
    world.submit()
    world.claim()
    with transaction(engine) as session:
        (taken,) = outbox.claim(session, [hook["id"]])
    assert deliver_due(engine, sender) == 0  # the lease is valid
    make_due()  # the lease expires
    assert deliver_due(engine, sender) == 1
    # The first sender was only slow and records its outcome too late.
    delivery.record_outcome(engine, taken, Outcome(error="too late"))
    (shown,) = deliveries(client, hook)
    assert (shown["status"], shown["attempts"], shown["error"]) == (
        "delivered",
        2,
        None,
    )
    assert client.get(f"/v1/webhooks/{hook['id']}").json()["failing_since"] is None


def test_webhook_deleted_during_an_attempt_leaves_no_rows(
    hook: dict[str, Any], world: World, client: TestClient, engine: Engine
) -> None:
    world.submit()
    world.claim()
    with transaction(engine) as session:
        (taken,) = outbox.claim(session, [hook["id"]])
    assert client.delete(f"/v1/webhooks/{hook['id']}").status_code == 204
    delivery.record_outcome(engine, taken, Outcome(error="nobody there"))
    with transaction(engine) as session:
        assert session.scalars(select(WebhookDelivery)).all() == []


def test_backoff_grows_up_to_its_maximum() -> None:
    ceilings = [max(retry_delay_ms(attempts) for _ in range(300)) for attempts in range(1, 9)]
    limits = [30_000, 120_000, 480_000, 1_920_000, 7_680_000, *[BACKOFF_MAX_MS] * 3]
    for reached, limit in zip(ceilings, limits, strict=True):
        assert limit / 2 < reached <= limit


def test_background_thread_delivers_messages(
    settings: Settings, app: FastAPI, key_for: Callable[..., str], receiver: Receiver
) -> None:
    eager = settings.model_copy(update={"reconcile_seconds": 0.05})
    with TestClient(create_app(eager)) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        hook = client.post("/v1/webhooks", json={"url": receiver.url}).json()
        sent = client.post(f"/v1/webhooks/{hook['id']}/test").json()
        wait_until("the message", lambda: bool(receiver.requests))
        wait_until("the outcome", lambda: deliveries(client, hook)[0]["status"] == "delivered")
    message = verify(hook["secret"], receiver.requests[0])
    assert message["data"] == {"id": hook["id"]}
    assert json.loads(receiver.requests[0].body)["type"] == "webhook.test"
    assert receiver.requests[0].headers["webhook-id"] == sent["id"]
