"""Fixtures that several packages of tests need."""

from __future__ import annotations

import io
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, transaction
from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings
from app.main import create_app
from app.models import Base
from app.system import metrics
from tests import services
from tests.api.documented import Answer, RecordAnswers, undocumented
from tests.world import World

#: Files that take minutes. They run first: the last one would occupy a process while others idle.
LONG_FILES = {
    f"tests/{name}.py"
    for name in (
        "cli/test_serve",
        "supervisor/test_celery",
        "supervisor/test_recovery",
        "supervisor/test_supervisor",
        "test_chaos",
        "test_end_to_end",
        "test_readme",
        "trainer/tasks/test_eval_datasets",
        "trainer/tasks/test_evaluation_parity",
        "trainer/tasks/test_train",
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; ``make test`` keeps this order."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in LONG_FILES)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server."""
    # Not inside pytest's directory: another pytest process on the machine can make it unreadable
    # for the user of the server.
    with (
        tempfile.TemporaryDirectory(prefix="plaudit-postgres-") as directory,
        services.postgres_url(Path(directory)) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis server."""
    with services.redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> Iterator[str]:
    """A migrated PostgreSQL database for the session. Each test starts with empty tables."""
    with services.fresh_database(postgres_server, f"plaudit_{secrets.token_hex(4)}") as url:
        engine = make_engine(url)
        migrate(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file that tests copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()  # closing the last connection writes the WAL back into the file
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database; every test that touches data runs on both kinds."""
    return empty_database(request.param, request, tmp_path)


def empty_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database: ``sqlite`` or ``postgresql``."""
    if kind == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        # Ten times as fast as TRUNCATE, which creates new files.
        emptied = (f'DELETE FROM "{table.name}"' for table in reversed(Base.metadata.sorted_tables))
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("; ".join(emptied))
        return url
    template: Path = request.getfixturevalue("sqlite_template")
    shutil.copyfile(template, tmp_path / "test.db")
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a migrated, empty database."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session in a transaction that is committed at the end of the test."""
    with transaction(engine) as session:
        yield session


@pytest.fixture
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an embedded service on the test's database.

    Submitting does not wait for an inspection, and no test reaches the rate limit by chance. A test
    of other settings overrides this fixture, or uses ``settings.model_copy(update=...)``.
    """
    return Settings(
        database_url=database_url,  # type: ignore[arg-type]
        data_dir=tmp_path_factory.mktemp("data"),
        preflight_wait_seconds=0,
        rate_burst=1_000_000,
        import_sources=frozenset({"hub:acme/*"}),
        push_targets=frozenset({"hub:acme/*"}),
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
