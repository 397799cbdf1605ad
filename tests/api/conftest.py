"""The service on a real database of either kind, and clients with keys."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.key_ring import Scope
from app.core.database import transaction
from app.core.logging import configure_logging
from app.core.settings import Settings
from app.main import create_app
from app.system import metrics
from tests.api.recorder import Seen, recording
from tests.api.world import World

HERE = Path(__file__).parent
#: Holds what all the others saw against the document.
LAST = "test_statuses.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that looks back on this room's others comes after them."""
    items.sort(key=lambda item: item.path == HERE / LAST and "documented" in item.name)


@pytest.fixture(scope="session", autouse=True)
def seen() -> Iterator[Seen]:
    """The statuses that every operation answered with so far."""
    with recording() as found:
        yield found


@pytest.fixture(scope="session")
def is_whole(request: pytest.FixtureRequest) -> bool:
    """Whether every test file of this room runs, so that what is missing is missing."""
    ran = {item.path for item in request.session.items}
    return ran >= set(HERE.glob("test_*.py")) and not request.config.option.keyword


@pytest.fixture
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An embedded service that waits for no inspection."""
    return Settings(
        database_url=database_url,  # type: ignore[arg-type]
        data_dir=tmp_path_factory.mktemp("data"),
        preflight_wait_seconds=0,
        rate_burst=1_000_000,
    )


@pytest.fixture
def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(metrics, "PAGE_SECONDS", 0.0)  # tests change rows between two readings
    return create_app(settings)


@pytest.fixture
def anonymous(app: FastAPI) -> Iterator[TestClient]:
    """A client without a key; the service's lifespan is that of the test."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def key_for(engine: Engine) -> Callable[..., str]:
    """Makes a key: ``key_for("tenant", Scope.ADMIN)``."""

    def make(tenant_id: str, *scopes: Scope, expires_at: int | None = None) -> str:
        with transaction(engine) as session:
            return api_keys.create(
                session, tenant_id, "a test", scopes or [Scope.ADMIN], expires_at
            ).token

    return make


@pytest.fixture
def client(anonymous: TestClient, key_for: Callable[..., str]) -> TestClient:
    """A client with the admin key of tenant "acme"."""
    anonymous.headers["Authorization"] = f"Bearer {key_for('acme')}"
    return anonymous


@pytest.fixture
def world(client: TestClient, engine: Engine, settings: Settings) -> World:
    """The service with somebody who plays the workers."""
    return World(client, engine, settings)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the service logs during the test."""
    stream = io.StringIO()
    configure_logging(stream)
    yield stream
    configure_logging()


@pytest.fixture
def job(world: World) -> dict[str, Any]:
    """A queued job of tenant "acme"."""
    return world.submit()
