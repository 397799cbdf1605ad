"""Fixtures: the real service on a port, with either database, and both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.core.settings import Settings
from plaudit import AsyncPlaudit, Plaudit, Retries
from tests.client.driving import Driven, Loop
from tests.conftest import empty_database
from tests.site import Site
from tests.world import World

#: Short limits, so that a failing test ends soon.
RETRIES = Retries(attempts=3, seconds=20, outage_seconds=60)
Connect = Callable[..., Any]


@pytest.fixture(params=["sync-sqlite", "sync-postgresql", "async-sqlite"])
def kind(request: pytest.FixtureRequest) -> list[str]:
    """Combinations of client and database; a fourth one would not test anything new."""
    return str(request.param).split("-")


@pytest.fixture
def database_url(kind: list[str], request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Yield a migrated, empty database."""
    return empty_database(kind[1], request, tmp_path)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings that allow webhooks to this machine."""
    return settings.model_copy(update={"webhook_allow_loopback": True})


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    """Run the service on the test's database."""
    site = Site(settings)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def key(key_for: Callable[..., str]) -> str:
    """Return an admin key of the tenant "acme"."""
    return key_for("acme")


@pytest.fixture
def world(site: Site, engine: Engine, settings: Settings, key: str) -> Iterator[World]:
    """Return a stand-in for the workers."""
    headers = {"Authorization": f"Bearer {key}"}
    # Shorter than the keep-alive of the service, which may close a connection during a request.
    limits = httpx.Limits(keepalive_expiry=1)
    with httpx.Client(base_url=site.url, headers=headers, limits=limits) as client:
        yield World(client, engine, settings)  # type: ignore[arg-type]


@contextmanager
def connecting(kind: str) -> Iterator[Connect]:
    """Creates clients of one kind, which all have the synchronous interface, and closes them."""
    if kind == "sync":
        with ExitStack() as stack:
            yield lambda url, key, **options: stack.enter_context(
                Plaudit(url, key, **{"retries": RETRIES, **options})
            )
        return
    loop = Loop()
    opened: list[AsyncPlaudit] = []

    def make(url: str, key: str, **options: Any) -> Driven:
        opened.append(AsyncPlaudit(url, key, **{"retries": RETRIES, **options}))
        return Driven(opened[-1], loop)

    yield make
    for client in opened:
        loop.run(client.aclose())
    loop.stop()


@pytest.fixture
def connect(kind: list[str]) -> Iterator[Connect]:
    """Yield a factory of clients of one kind."""
    with connecting(kind[0]) as connect:
        yield connect


@pytest.fixture
def client(connect: Connect, site: Site, key: str) -> Any:
    """Return a client of the service with an admin key."""
    return connect(site.url, key)
