"""Every documented status is seen, and no other: what all operations share, and the final count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from limits import RateLimitItemPerSecond
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from app.auth.key_ring import Scope
from app.auth.rate_limit import RateLimiter
from app.core.settings import Settings
from app.models import Base
from tests.api.recorder import Seen
from tests.api.test_reference import operations
from tests.api.world import BASE_MODEL, World

#: Documented, and not to be had in a test of this room, each with its reason.
UNSEEN = {
    ("POST", "/v1/datasets", 408): "an upload that falls silent is waited for longer than a test",
}
#: Answered, and no client ever reads it, each with its reason.
UNREAD = {
    ("POST", "/v1/datasets", 400): "the client has hung up in the middle of its upload",
}
ZEROES = "0" * 32
UNKNOWN = {
    "job_id": f"job_{ZEROES}",
    "dataset_id": f"ds_{ZEROES}",
    "adapter_id": f"ad_{ZEROES}",
    "key_id": f"key_{ZEROES}",
    "webhook_id": f"wh_{ZEROES}",
    "base_model_id": "no-such-model",
    "name": "worst_pairs",  # names a report, and could name a file
    "code": "no_such_code",
}
QUERY = {"get_dataset_report": f"?base_model={BASE_MODEL}"}
BODIES: dict[str, dict[str, Any]] = {
    "create_job": {"base_model": BASE_MODEL, "train_dataset": f"ds_{ZEROES}"},
    "update_job": {"name": "new"},
    "create_api_key": {"name": "new", "scopes": ["jobs:read"]},
    "create_webhook": {"url": "http://localhost:9/"},
}

Ask = Callable[..., int]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A service that lets webhooks go to this machine."""
    return settings.model_copy(update={"webhook_allow_loopback": True})


@pytest.fixture
def ask(anonymous: TestClient) -> Ask:
    """Asks an operation; the status of the answer."""

    def send(where: tuple[str, str], name: str, token: str | None = None) -> int:
        method, path = where
        url = path.format(**UNKNOWN) + QUERY.get(name, "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if name == "create_dataset":
            headers["Content-Type"] = "application/x-ndjson"
            body: dict[str, Any] = {"content": b"not json"}
        else:
            body = {"json": BODIES[name]} if name in BODIES else {}
        return anonymous.request(method, url, headers=headers, **body).status_code

    return send


def guarded(app: FastAPI) -> dict[tuple[str, str], dict[str, Any]]:
    return {where: found for where, found in operations(app).items() if "security" in found}


def test_no_operation_answers_without_a_key(app: FastAPI, ask: Ask) -> None:
    for where, operation in guarded(app).items():
        assert ask(where, operation["operationId"]) == 401, where


def test_no_operation_answers_a_key_without_the_scope(
    app: FastAPI, ask: Ask, key_for: Callable[..., str]
) -> None:
    keys = [key_for("acme", scope) for scope in Scope if scope != Scope.ADMIN]
    for where, operation in guarded(app).items():
        statuses = [ask(where, operation["operationId"], key) for key in keys]
        assert 403 in statuses, where


def test_no_operation_answers_a_key_that_asks_too_often(
    app: FastAPI, ask: Ask, key_for: Callable[..., str]
) -> None:
    key = key_for("acme")
    app.state.rates.requests = RateLimiter(RateLimitItemPerSecond(0))
    for where, operation in guarded(app).items():
        assert ask(where, operation["operationId"], key) == 429, where


def test_nothing_that_is_not_there_is_found(
    app: FastAPI, ask: Ask, key_for: Callable[..., str]
) -> None:
    key = key_for("acme")
    for where, operation in operations(app).items():
        if "404" in operation["responses"]:
            assert ask(where, operation["operationId"], key) == 404, where


def test_ids_that_cannot_be_are_refused(app: FastAPI, key_for: Callable[..., str]) -> None:
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        for (method, path), operation in guarded(app).items():
            if "422" not in operation["responses"]:
                continue
            named = {p["name"]: p["in"] for p in operation.get("parameters", ())}
            if not named and "requestBody" not in operation:
                continue
            wrong = {"limit": "0", "job_id": "!"}
            query = {name: wrong[name] for name in wrong if named.get(name) == "query"}
            url = path.format(**dict.fromkeys(UNKNOWN, "!")) + "?" + urlencode(query)
            answer = client.request(
                method, url, content=b"{", headers={"Content-Type": "application/json"}
            )
            is_upload = operation["operationId"] == "create_dataset"
            assert answer.status_code == (415 if is_upload else 422), path


def test_parameters_that_are_none_are_refused_and_those_that_are_named(
    app: FastAPI, key_for: Callable[..., str]
) -> None:
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        for (method, path), operation in guarded(app).items():
            name = operation["operationId"]
            url = path.format(**UNKNOWN) + "?stats=running"
            answer = client.request(method, url, json=BODIES.get(name))
            assert answer.status_code == 422, path
            if method == "HEAD":
                continue
            (error,) = answer.json()["errors"]
            assert (error["loc"], error["code"]) == ("/query/stats", "unknown_field"), path
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] != "query" or parameter["name"] in error["message"], path


def test_bodies_that_are_too_large_are_refused(
    app: FastAPI, key_for: Callable[..., str], settings: Settings
) -> None:
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        for (method, path), operation in guarded(app).items():
            if "413" not in operation["responses"]:
                continue
            kind, length = "application/json", 2 << 20
            if operation["operationId"] == "create_dataset":
                kind, length = "application/x-ndjson", settings.max_upload_bytes + 1
            headers = {"Content-Type": kind, "Content-Length": str(length)}
            answer = client.request(method, path.format(**UNKNOWN), content=b"{", headers=headers)
            assert answer.status_code == 413, path


def test_every_download_gives_parts_and_knows_what_the_client_has(
    app: FastAPI, world: World, client: TestClient
) -> None:
    made = world.submit()
    world.publish(world.claim(), {UNKNOWN["name"]: b"{}"})
    known = UNKNOWN | {
        "adapter_id": world.get(made)["adapter_id"],
        "dataset_id": made["spec"]["train_dataset"],
    }
    for (method, path), operation in guarded(app).items():
        if "416" not in operation["responses"]:
            continue
        url = path.format(**known)
        tag = client.request(method, url).headers["etag"]
        for headers, status in (
            ({"Range": "bytes=0-0"}, 206),
            ({"Range": "bytes=999999999-"}, 416),
            ({"If-None-Match": tag}, 304),
        ):
            assert client.request(method, url, headers=headers).status_code == status, path


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_operation_says_so_when_the_database_is_away(
    app: FastAPI, ask: Ask, engine: Engine, key_for: Callable[..., str]
) -> None:
    key = key_for("acme")
    assert ask(("GET", "/v1/jobs"), "list_jobs", key) == 200  # the key is known from here on
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE {table.name}"))
    for where, operation in guarded(app).items():
        known = where[0], where[1].replace("{base_model_id}", BASE_MODEL)
        assert ask(known, operation["operationId"], key) == 503, where


def test_every_documented_status_was_seen_and_no_other(
    app: FastAPI, seen: Seen, is_whole: bool
) -> None:
    documented = {
        (*where, int(status))
        for where, operation in operations(app).items()
        for status in operation["responses"]
    }
    known = {where[:2] for where in documented}
    answered = {
        (*where, status) for where, statuses in seen.items() for status in statuses
        if where in known
    }  # fmt: skip
    undocumented = sorted(answered - documented - UNREAD.keys())
    never_seen = sorted(documented - answered - UNSEEN.keys()) if is_whole else []
    assert (undocumented, never_seen) == ([], [])
