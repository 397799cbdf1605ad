"""Rate limits over HTTP: 429 with Retry-After, limits shared by processes, and wrong keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from limits import RateLimitItemPerSecond
from pydantic import SecretStr
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.auth import rate_limit, redis_windows
from app.auth.rate_limit import RateLimiter, Rates
from app.core.settings import Settings
from app.main import create_app
from tests.services import wait_until

WRONG_KEY = "plk_" + "0" * 32 + "_" + "0" * 43 + "_000000"
LIMITS = ("rate_per_second", "rate_burst", "failed_logins_per_minute")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the limits; it moves only when the test moves it."""
    clock = SimpleNamespace(now=90_000.5, time=lambda: clock.now)
    for module in ("limits.storage.memory.time", "limits.strategies.time"):
        monkeypatch.setattr(module, clock)
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


@pytest.fixture
def default_limits(app: FastAPI, settings: Settings, clock: SimpleNamespace) -> FastAPI:
    """The service with the default limits: 60 requests in 3 seconds, 10 wrong keys a minute."""
    defaults = {name: Settings.model_fields[name].default for name in LIMITS}
    app.state.rates = Rates(settings.model_copy(update=defaults))
    return app


@pytest.fixture
def two_processes(
    settings: Settings,
    redis_server: str,
    key_for: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[TestClient, TestClient]]:
    """Clients of two API processes that know of each other; limits of 40 requests, 6 wrong keys."""
    monkeypatch.setattr(redis_windows, "TIMEOUT_SECONDS", 10.0)  # the machine may be busy
    shared = settings.model_copy(
        update={
            "redis_url": SecretStr(redis_server),
            "queue": uuid.uuid4().hex,  # separates the tests in Redis
            "rate_per_second": 0.001,
            "rate_burst": 40,
            "failed_logins_per_minute": 6,
        }
    )
    apps = [create_app(shared), create_app(shared)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(TestClient(app, headers=bearer(key_for("acme")))) for app in apps
        ]
        wait_until(
            "both processes to be counted",
            lambda: all(app.state.rates.redis.processes == 2 for app in apps),
        )
        yield clients[0], clients[1]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def statuses(client: TestClient, requests: int, **how: dict[str, str]) -> list[int]:
    return [client.get("/v1/jobs?limit=1", **how).status_code for _ in range(requests)]


def test_key_over_its_limit_gets_429_with_retry_after(
    default_limits: FastAPI,
    client: TestClient,
    clock: SimpleNamespace,
    key_for: Callable[..., str],
) -> None:
    assert statuses(client, 60) == [200] * 60
    refused = client.get("/v1/jobs")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["content-type"] == "application/problem+json"
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("3", "true")
    assert statuses(client, 1, headers=bearer(key_for("acme"))) == [200]
    assert client.get("/healthz").status_code == 200
    clock.now = 90_003.08
    assert statuses(client, 3) == [200, 200, 429]


def test_status_polls_count_for_the_limit_too(
    app: FastAPI, client: TestClient, key_for: Callable[..., str]
) -> None:
    path = f"/v1/jobs/job_{'0' * 32}"
    assert client.get(path).status_code == 404  # the key is cached: the fast path responds
    app.state.rates.requests = RateLimiter(RateLimitItemPerSecond(2, 100_000))
    assert [client.get(path).status_code for _ in range(4)] == [404, 404, 429, 429]


def test_processes_share_the_limit_of_a_key(two_processes: tuple[TestClient, TestClient]) -> None:
    first, second = two_processes
    second.headers["Authorization"] = first.headers["Authorization"]
    found = [*statuses(first, 30), *statuses(second, 30)]
    assert (found.count(200), found.count(429)) == (40, 20)


def test_processes_share_the_limit_of_wrong_keys(
    two_processes: tuple[TestClient, TestClient],
) -> None:
    found = [
        status for client in two_processes for status in statuses(client, 6, headers=bearer("no"))
    ]
    assert (found.count(401), found.count(429)) == (6, 6)


def test_wrong_keys_of_a_network_are_counted(
    default_limits: FastAPI, client: TestClient, clock: SimpleNamespace
) -> None:
    wrong = bearer(WRONG_KEY)
    assert statuses(client, 10, headers=wrong) == [401] * 10
    refused = client.get("/v1/jobs", headers=wrong)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "true")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    clock.now += 120
    assert statuses(client, 1, headers=wrong) == [401]


def test_valid_key_passes_whatever_its_network_sends(
    default_limits: FastAPI, client: TestClient, key_for: Callable[..., str]
) -> None:
    assert statuses(client, 11, headers=bearer(WRONG_KEY))[-1] == 429
    used, unused = client.headers["Authorization"], bearer(key_for("acme"))
    assert statuses(client, 1, headers={"Authorization": used}) == [200]
    assert statuses(client, 1, headers=unused) == [200]


def test_valid_keys_pass_during_a_flood_of_wrong_ones(
    default_limits: FastAPI, client: TestClient, key_for: Callable[..., str]
) -> None:
    wrong = [bearer(f"plk_{number:032}_{'0' * 43}_000000") for number in range(60)]
    valid = [bearer(key_for("acme")) for _ in range(10)]
    with ThreadPoolExecutor(30) as pool:
        flood = [pool.submit(statuses, client, 1, headers=key) for key in wrong]
        found = [pool.submit(statuses, client, 1, headers=key) for key in valid]
        assert [request.result() for request in found] == [[200]] * 10
        answers = [request.result()[0] for request in flood]
    assert (answers.count(401), answers.count(429)) == (10, 50)


def test_valid_and_missing_keys_are_not_counted_as_wrong(
    default_limits: FastAPI, anonymous: TestClient, key_for: Callable[..., str]
) -> None:
    for _ in range(12):
        assert statuses(anonymous, 1, headers=bearer(key_for("acme"))) == [200]
        assert statuses(anonymous, 1) == [401]
    assert statuses(anonymous, 1, headers=bearer(WRONG_KEY)) == [401]


def test_requests_that_bring_one_key_at_once_share_a_look_up(
    default_limits: FastAPI, anonymous: TestClient, key_for: Callable[..., str], engine: Engine
) -> None:
    keys = [bearer(key_for("acme")) for _ in range(15)]

    def ask(headers: dict[str, str]) -> int:
        return statuses(anonymous, 1, headers=headers)[0]

    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(ask, keys[:1] * 30)) == {200}
        assert set(pool.map(ask, keys)) == {200}
        ring = default_limits.state.keys
        ring._cache = {name: (who, 0.0) for name, (who, _) in ring._cache.items()}
        assert set(pool.map(ask, keys * 2)) == {200}


def test_revoked_key_counts_as_a_wrong_one(
    default_limits: FastAPI, client: TestClient, key_for: Callable[..., str]
) -> None:
    other = bearer(key_for("acme"))
    assert statuses(client, 1, headers=other) == [200]
    newest = client.get("/v1/api-keys?limit=1").json()["data"][0]["id"]
    assert client.delete(f"/v1/api-keys/{newest}").status_code == 204
    assert statuses(client, 11, headers=other) == [*[401] * 10, 429]
