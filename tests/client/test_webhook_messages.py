"""Webhook messages are verified like in the library of the standard."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from standardwebhooks import Webhook

from app.core.settings import Settings
from app.webhooks.delivery import Sender
from plaudit import Plaudit, SignatureError, WebhookMessage, verify_webhook
from tests.webhooks.delivering import deliver_due
from tests.webhooks.receiver import receiving
from tests.world import World

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes....").decode()
OTHER = "whsec_" + base64.b64encode(b"another one of as many..").decode()
BODY = json.dumps(
    {"type": "job.succeeded", "timestamp": "2026-11-24T10:00:00.000Z", "data": {"id": "job_1"}}
)


def signed(body: str = BODY, *secrets: str, age: float = 0) -> dict[str, str]:
    """Return headers signed with the library of the standard."""
    moment = datetime.now(UTC) - timedelta(seconds=age)
    signatures = [Webhook(s).sign("evt_1", moment, body) for s in secrets or (SECRET,)]
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@pytest.mark.parametrize("body", [BODY, BODY.encode()], ids=["text", "bytes"])
@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_signed_message_is_read(body: str | bytes, case: Callable[[str], str]) -> None:
    headers = {case(name): value for name, value in signed().items()}
    message = verify_webhook(body, headers, SECRET)
    assert message == WebhookMessage(
        id="evt_1",
        type="job.succeeded",
        timestamp=datetime(2026, 11, 24, 10, tzinfo=UTC),
        data={"id": "job_1"},
    )


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_whatever_the_library_signs_is_accepted(data: dict[str, Any]) -> None:
    body = json.dumps({**json.loads(BODY), "data": data}, ensure_ascii=False)
    try:
        body.encode()
    except UnicodeEncodeError:
        return
    assert verify_webhook(body, signed(body), SECRET).data == data


def test_either_secret_of_a_rotation_is_accepted() -> None:
    headers = signed(BODY, OTHER, SECRET)
    assert verify_webhook(BODY, headers, SECRET) == verify_webhook(BODY, headers, OTHER)


@pytest.mark.parametrize(
    ("body", "sign", "reason"),
    [
        (BODY.replace("job_1", "job_2"), lambda: signed(), "No signature"),
        (BODY + " ", lambda: signed(), "No signature"),
        (BODY, lambda: signed(BODY, OTHER), "No signature"),
        (BODY, lambda: signed() | {"webhook-id": "evt_2"}, "No signature"),
        (BODY, lambda: signed() | {"webhook-signature": "v1,AAAA v2,BBBB v1,%%% x"}, "No sig"),
        (BODY, lambda: signed(age=400), "s old"),
        (BODY, lambda: signed(age=-400), "in the future"),
        (BODY, lambda: signed() | {"webhook-timestamp": "soon"}, "not a number"),
        (BODY, lambda: signed() | {"webhook-timestamp": "-5"}, "not a number"),
        (BODY, lambda: signed() | {"webhook-timestamp": "9" * 5000}, "not a number"),
        (BODY, lambda: without(signed(), "webhook-id"), "webhook-id"),
        ("[]", lambda: signed("[]"), "not a message"),
        ('{"type": "x"}', lambda: signed('{"type": "x"}'), "not a message"),
    ],
)
def test_message_that_is_not_to_be_trusted_is_refused(
    body: str, sign: Callable[[], dict[str, str]], reason: str
) -> None:
    with pytest.raises(SignatureError, match=reason):
        verify_webhook(body, sign(), SECRET)


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_changed_bit_is_noticed(at: int, bit: int) -> None:
    changed = bytearray(BODY.encode())
    changed[at % len(changed)] ^= 1 << bit
    with pytest.raises(SignatureError):
        verify_webhook(bytes(changed), signed(), SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_AAAA"])
def test_what_is_no_secret_is_told(secret: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        verify_webhook(BODY, signed(), secret)


def test_tolerance_can_be_widened() -> None:
    assert verify_webhook(BODY, signed(age=400), SECRET, tolerance_seconds=500).id == "evt_1"


def test_message_of_the_service_is_verified(
    client: Any, world: World, engine: Engine, settings: Settings
) -> None:
    """A webhook is created, its secret is rotated, and it is deleted."""
    with receiving() as receiver:
        hook = client.webhooks.create(url=receiver.url, events=["job.cancelled"])
        client.webhooks.rotate_secret(hook.id)
        newest = client.webhooks.rotate_secret(hook.id)
        client.jobs.cancel(world.submit(name="Größe ☃")["id"])
        test = client.webhooks.test(hook.id)
        # The service sends messages itself; the test sends those that are still pending.
        sender = Sender(settings)
        while len(receiver.requests) < 2:
            deliver_due(engine, sender)
    messages = [
        client.webhooks.verify(heard.body, heard.headers, newest.secret)
        for heard in receiver.requests
    ]
    found = {message.type: message for message in messages}
    assert found.keys() == {"job.cancelled", "webhook.test"}
    assert found["job.cancelled"].data["name"] == "Größe ☃"
    assert found["webhook.test"].id == test.id
    with pytest.raises(SignatureError):
        client.webhooks.verify(receiver.requests[0].body, receiver.requests[0].headers, hook.secret)
    assert {sent.id for sent in client.webhooks.deliveries(hook.id)} == {m.id for m in messages}
    assert client.webhooks.get(hook.id).events == ["job.cancelled"]
    assert [webhook.id for webhook in client.webhooks.list()] == [hook.id]
    client.webhooks.delete(hook.id)
    assert list(client.webhooks.list()) == []


def test_verify_needs_no_client() -> None:
    assert Plaudit("http://127.0.0.1:1", "plk_x").webhooks.verify is verify_webhook
