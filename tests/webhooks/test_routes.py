"""The routes of /v1/webhooks."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.settings import Settings
from app.job_queue.kinds import KINDS
from app.main import create_app
from app.models import Webhook
from app.webhooks import service
from app.webhooks.schemas import EventType
from app.webhooks.service import MAX_WEBHOOKS
from tests.deployed import ROOT

URL = "https://hooks.example.com/plaudit"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_events_are_those_of_the_kinds_of_jobs_and_documented() -> None:
    types = set(get_args(EventType))
    topics = {kind.topic for kind in KINDS.values() if kind.topic is not None}
    assert {each.partition(".")[0] for each in types} == topics
    page = (ROOT / "docs" / "webhooks.md").read_text()
    assert set(re.findall(rf"`((?:{'|'.join(topics)})\.[a-z]+)`", page)) == types


def test_webhook_is_created_shown_without_its_secret_and_deleted(client: TestClient) -> None:
    body = {"url": URL, "events": ["job.failed", "job.succeeded"]}
    made = client.post("/v1/webhooks", json=body)
    assert made.status_code == 201, made.text
    hook = made.json()
    secret = hook.pop("secret")
    assert secret.startswith("whsec_")
    assert (hook["url"], hook["events"]) == (URL, ["job.failed", "job.succeeded"])
    shown = client.get(f"/v1/webhooks/{hook['id']}")
    listed = client.get("/v1/webhooks")
    assert shown.json() == hook
    assert listed.json()["data"] == [hook]
    assert client.delete(f"/v1/webhooks/{hook['id']}").status_code == 204
    assert client.get(f"/v1/webhooks/{hook['id']}").json()["code"] == "webhook_not_found"
    assert client.delete(f"/v1/webhooks/{hook['id']}").status_code == 404
    acts = client.get("/v1/audit").json()["data"]
    assert [row["action"] for row in acts] == ["webhook.delete", "webhook.create"]
    for answer in (shown, listed, client.get("/v1/audit")):
        assert secret not in answer.text


def test_webhook_receives_all_events_by_default(client: TestClient) -> None:
    events = client.post("/v1/webhooks", json={"url": URL}).json()["events"]
    assert {event for event in events if event.startswith("job.")} == {
        "job.cancelled",
        "job.failed",
        "job.paused",
        "job.running",
        "job.succeeded",
    }
    assert {event.partition(".")[0] for event in events} == {"evaluation", "job", "score_batch"}


@pytest.mark.parametrize(
    ("body", "loc", "code"),
    [
        ({"url": "https://evil.example.net/"}, "/url", "webhook_url"),
        ({"url": "http://hooks.example.com/"}, "/url", "webhook_url"),
        ({"url": "https://user:pw@hooks.example.com/"}, "/url", "webhook_url"),
        ({"url": URL, "events": []}, "/events", "too_short"),
        ({"url": URL, "events": ["job.queued"]}, "/events/0", "not_one_of"),
        ({"url": URL, "secret": "mine"}, "/secret", "unknown_field"),
        ({}, "/url", "missing"),
    ],
)
def test_invalid_webhook_is_rejected_with_a_pointer(
    client: TestClient, body: dict[str, Any], loc: str, code: str
) -> None:
    answer = client.post("/v1/webhooks", json=body)
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert (error["loc"], error["code"]) == (loc, code)
    assert client.get("/v1/webhooks").json()["data"] == []


def test_webhooks_are_disabled_without_allowed_hosts(
    settings: Settings, key_for: Callable[..., str]
) -> None:
    plain = settings.model_copy(
        update={"webhook_hosts": frozenset(), "webhook_allow_loopback": False}
    )
    with TestClient(create_app(plain)) as client:
        refused = client.post("/v1/webhooks", json={"url": URL}, headers=bearer(key_for("acme")))
    assert (refused.status_code, refused.json()["code"]) == (422, "webhook_url")
    assert "PLAUDIT_WEBHOOK_HOSTS" in refused.json()["errors"][0]["hint"]


def test_number_of_webhooks_per_tenant_is_limited(
    client: TestClient, key_for: Callable[..., str]
) -> None:
    for _ in range(MAX_WEBHOOKS):
        assert client.post("/v1/webhooks", json={"url": URL}).status_code == 201
    refused = client.post("/v1/webhooks", json={"url": URL})
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    other = bearer(key_for("other"))
    assert client.post("/v1/webhooks", json={"url": URL}, headers=other).status_code == 201


def test_test_messages_are_queued_and_listed_in_pages(
    client: TestClient, hook: dict[str, Any]
) -> None:
    path = f"/v1/webhooks/{hook['id']}"
    sent = [client.post(f"{path}/test") for _ in range(3)]
    assert [answer.status_code for answer in sent] == [202] * 3
    assert sent[0].json()["status"] == "pending"
    first = client.get(f"{path}/deliveries", params={"limit": 2}).json()
    rest = client.get(f"{path}/deliveries", params={"after": first["next"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == [
        answer.json()["id"] for answer in reversed(sent)
    ]
    assert (first["has_more"], rest["has_more"]) == (True, False)


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/test"),
        ("POST", "/rotate-secret"),
        ("GET", "/deliveries"),
    ],
)
def test_webhook_is_hidden_from_other_tenants_and_other_scopes(
    client: TestClient, hook: dict[str, Any], key_for: Callable[..., str], method: str, suffix: str
) -> None:
    path = f"/v1/webhooks/{hook['id']}"
    other_tenant = bearer(key_for("intruder"))
    other_scopes = bearer(key_for("acme", Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.ARTIFACTS_READ))
    assert client.request(method, path + suffix, headers=other_tenant).status_code == 404
    assert client.request(method, path + suffix, headers=other_scopes).status_code == 403
    assert client.get(path).status_code == 200
    assert client.get(f"{path}/deliveries").json()["data"] == []


def test_list_of_webhooks_needs_the_admin_scope_and_shows_one_tenant(
    client: TestClient, hook: dict[str, Any], key_for: Callable[..., str]
) -> None:
    other_tenant = bearer(key_for("intruder"))
    assert client.get("/v1/webhooks", headers=other_tenant).json()["data"] == []
    other_scope = bearer(key_for("acme", Scope.JOBS_READ))
    assert client.get("/v1/webhooks", headers=other_scope).status_code == 403


def test_concurrent_rotations_leave_both_new_secrets_valid(
    client: TestClient, hook: dict[str, Any], engine: Engine
) -> None:
    """Each of two administrators gets a secret, and both must verify the next messages."""
    later: list[str] = []

    def rotate() -> None:
        later.append(client.post(f"/v1/webhooks/{hook['id']}/rotate-secret").json()["secret"])

    thread = threading.Thread(target=rotate)
    with transaction(engine) as session:
        first = service.rotate_secret(session, "acme", hook["id"]).secret
        thread.start()
        time.sleep(0.3)  # the second rotation waits for the first, or has read the old secret
    thread.join()
    with transaction(engine) as session:
        row = session.get_one(Webhook, hook["id"])
        assert (row.secret, row.old_secret) == (later[0], first)
