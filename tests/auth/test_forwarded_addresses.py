"""Client addresses behind reverse proxies: X-Forwarded-For counts only from trusted proxies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.auth.scopes import Scope
from app.core.settings import Settings
from app.main import create_app
from tests.auth.test_rates import bearer, statuses


def settings_with(settings: Settings, proxies: str, **changes: object) -> Settings:
    """Return the settings with PLAUDIT_TRUSTED_PROXIES set as by the environment."""
    trusted = Settings(trusted_proxies=proxies).trusted_proxies  # type: ignore[arg-type]
    return settings.model_copy(update={"trusted_proxies": trusted, **changes})


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "client"),
    [
        ("", "127.0.0.1", "203.0.113.9", "127.0.0.1"),
        ("10.0.0.0/8", "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.0/8", "10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.4", "203.0.113.9", "10.1.2.4"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("2001:db8::/32", "2001:db8::1", "2001:db9::7", "2001:db9::7"),
        # The client wrote the first entry; each proxy appends the address that it saw.
        ("10.0.0.0/8", "10.1.2.3", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.0/8", "10.1.2.3", "198.51.100.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        # Not an address: the proxy's address is kept.
        ("10.0.0.0/8", "10.1.2.3", "unknown", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", "x" * 500, "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", "fe80::1%" + "x" * 500, "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", "", "10.1.2.3"),
    ],
)
def test_audit_log_shows_the_client(
    settings: Settings,
    key_for: Callable[..., str],
    proxies: str,
    peer: str,
    forwarded: str,
    client: str,
) -> None:
    app = create_app(settings_with(settings, proxies))
    headers = {**bearer(key_for("acme", Scope.ADMIN)), "X-Forwarded-For": forwarded}
    with TestClient(app, client=(peer, 50_000), headers=headers) as http:
        made = http.post("/v1/api-keys", json={"name": "ci", "scopes": ["jobs:read"]})
        assert made.status_code == 201
        assert http.get("/v1/audit").json()["data"][0]["client"] == client


def test_wrong_keys_count_for_the_forwarded_client(settings: Settings, engine: Engine) -> None:
    app = create_app(settings_with(settings, "10.0.0.0/8", failed_logins_per_minute=3))
    with TestClient(app, client=("10.1.2.3", 50_000), headers=bearer("wrong")) as http:
        first, second = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "192.0.2.2"))
        assert statuses(http, 4, headers=first) == [401, 401, 401, 429]
        assert statuses(http, 1, headers=second) == [401]


def test_forged_addresses_do_not_evade_the_limit(settings: Settings, engine: Engine) -> None:
    app = create_app(settings.model_copy(update={"failed_logins_per_minute": 3}))
    with TestClient(app, client=("127.0.0.1", 50_000), headers=bearer("wrong")) as http:
        found = [
            statuses(http, 1, headers={"X-Forwarded-For": f"192.0.2.{number}"})[0]
            for number in range(4)
        ]
    assert found == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("proxies", "message"),
    [
        ("10.0.0.1/8", "has host bits set"),
        ("proxy.example.com", "use addresses and networks such as 10.0.0.7 or 10.0.0.0/8"),
        ("*", "use addresses and networks"),
        ("0.0.0.0/0", "every client forge its address"),
        ("10.0.0.1, ::/0", "every client forge its address"),
    ],
)
def test_proxies_that_cannot_be_trusted_are_refused(proxies: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(trusted_proxies=proxies)  # type: ignore[arg-type]
