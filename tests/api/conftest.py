"""Fixtures: the service on a real database of either kind, and clients with API keys."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
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
from tests.api.documented import Answer, RecordAnswers, undocumented
from tests.api.world import World


@pytest.fixture
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an embedded service that does not wait for inspections."""
    return Settings(
        database_url=database_url,  # type: ignore[arg-type]
        data_dir=tmp_path_factory.mktemp("data"),
        preflight_wait_seconds=0,
        rate_burst=1_000_000,
    )


@pytest.fixture
def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """The service; fails the test when an answer has a status that is not documented."""
    monkeypatch.setattr(metrics, "PAGE_SECONDS", 0.0)  # tests change rows between two scrapes
    app = create_app(settings)
    answers: list[Answer] = []
    # Outside of everything: some refusals are made before any middleware that can be added.
    app.middleware_stack = RecordAnswers(app.build_middleware_stack(), answers)
    yield app
    assert undocumented(answers) == []


@pytest.fixture
def anonymous(app: FastAPI) -> Iterator[TestClient]:
    """A client without an API key. The service runs for the duration of the test."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def key_for(engine: Engine) -> Callable[..., str]:
    """A factory of API keys: ``key_for("tenant", Scope.ADMIN)``."""

    def make(tenant_id: str, *scopes: Scope, expires_at: int | None = None) -> str:
        with transaction(engine) as session:
            return api_keys.create(
                session, tenant_id, "a test", scopes or [Scope.ADMIN], expires_at
            ).token

    return make


@pytest.fixture
def client(anonymous: TestClient, key_for: Callable[..., str]) -> TestClient:
    """A client with an admin key of tenant "acme"."""
    anonymous.headers["Authorization"] = f"Bearer {key_for('acme')}"
    return anonymous


@pytest.fixture
def world(client: TestClient, engine: Engine, settings: Settings) -> World:
    """The clients and workers of the service."""
    return World(client, engine, settings)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The log output of the service during the test."""
    stream = io.StringIO()
    configure_logging(stream)
    yield stream
    configure_logging()


@pytest.fixture
def job(world: World) -> dict[str, Any]:
    """A queued job of tenant "acme"."""
    return world.submit()
