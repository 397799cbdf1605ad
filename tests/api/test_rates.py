"""Who asks too often is told when to come back; the clock is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.auth.rate_limit import MAX_NAMES, Rates, TokenBucketLimiter, client_network
from app.core.settings import Settings


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def strict(app: FastAPI, settings: Settings, clock: Clock) -> FastAPI:
    """The service as it comes: 20 requests a second, 60 at once, 10 wrong keys a minute."""
    fields = ("rate_per_second", "rate_burst", "failed_logins_per_minute")
    defaults = {name: Settings.model_fields[name].default for name in fields}
    app.state.rates = Rates(settings.model_copy(update=defaults), clock)
    return app


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_bucket_gives_its_burst_then_its_rate(clock: Clock) -> None:
    buckets = TokenBucketLimiter(per_second=2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.25
    assert buckets.take("a") == 0.25
    clock.now += 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now += 3600
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_token_given_back_is_there_again(clock: Clock) -> None:
    buckets = TokenBucketLimiter(per_second=1, burst=1, clock=clock)
    assert buckets.take("a") == 0
    buckets.give_back("a")
    assert [buckets.take("a"), buckets.take("a")] == [0, 1]


def test_buckets_do_not_grow_without_end(clock: Clock) -> None:
    buckets = TokenBucketLimiter(per_second=1, burst=1, clock=clock)
    for number in range(MAX_NAMES + 50):
        buckets.take(str(number))
    assert len(buckets._buckets) == MAX_NAMES
    assert buckets.take(str(MAX_NAMES)) > 0  # the latest are the ones remembered


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_neighbours_in_ipv6_are_one(address: str | None, stands_for: str) -> None:
    assert client_network(address) == stands_for


def test_key_that_asks_too_often_is_told_to_wait(
    strict: FastAPI, client: TestClient, clock: Clock, key_for: Callable[..., str]
) -> None:
    for _ in range(60):
        assert client.get("/v1/jobs").status_code == 200
    refused = client.get("/v1/jobs")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["content-type"] == "application/problem+json"
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
    other = bearer(key_for("acme"))
    assert client.get("/v1/jobs", headers=other).status_code == 200
    assert client.get("/healthz").status_code == 200
    clock.now += 0.1
    assert [client.get("/v1/jobs").status_code for _ in range(3)] == [200, 200, 429]


def test_wrong_keys_from_an_address_are_counted(
    strict: FastAPI, client: TestClient, clock: Clock, key_for: Callable[..., str]
) -> None:
    assert client.get("/v1/jobs").status_code == 200
    wrong = bearer("plk_" + "0" * 32 + "_" + "0" * 43 + "_000000")
    for _ in range(10):
        assert client.get("/v1/jobs", headers=wrong).status_code == 401
    refused = client.get("/v1/jobs", headers=wrong)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "6")
    assert refused.headers["x-should-retry"] == "true"
    # A key in use goes on; a fresh one waits, right or wrong: nothing is learnt from the answer.
    assert client.get("/v1/jobs").status_code == 200
    fresh = bearer(key_for("acme"))
    assert client.get("/v1/jobs", headers=fresh).status_code == 429
    clock.now += 6
    assert client.get("/v1/jobs", headers=fresh).status_code == 200


def test_right_and_missing_keys_are_not_counted(
    strict: FastAPI, anonymous: TestClient, key_for: Callable[..., str], engine: Engine
) -> None:
    for _ in range(12):
        assert anonymous.get("/v1/jobs", headers=bearer(key_for("acme"))).status_code == 200
        assert anonymous.get("/v1/jobs").status_code == 401


def test_requests_that_bring_a_good_key_at_once_are_no_guesses(
    strict: FastAPI, anonymous: TestClient, key_for: Callable[..., str]
) -> None:
    """They all find that it was not looked up for half a minute, or never."""
    keys = [bearer(key_for("acme")) for _ in range(15)]

    def ask(headers: dict[str, str]) -> int:
        return anonymous.get("/v1/jobs?limit=1", headers=headers).status_code

    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(ask, keys[:1] * 30)) == {200}
        for key in keys:  # one after the other, for a new key is a guess like any other
            assert ask(key) == 200
        ring = strict.state.keys
        ring._cache = {name: (who, 0.0) for name, (who, _) in ring._cache.items()}
        assert set(pool.map(ask, keys * 2)) == {200}


def test_revoked_key_is_a_guess_again(
    strict: FastAPI, client: TestClient, key_for: Callable[..., str]
) -> None:
    assert client.get("/v1/jobs").status_code == 200
    other = bearer(key_for("acme"))
    assert client.get("/v1/jobs", headers=other).status_code == 200
    newest = client.get("/v1/api-keys?limit=1").json()["data"][0]["id"]
    assert client.delete(f"/v1/api-keys/{newest}").status_code == 204
    assert [client.get("/v1/jobs", headers=other).status_code for _ in range(11)] == [
        *[401] * 10,
        429,
    ]
