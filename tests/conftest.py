"""Fixtures that more than one room of the tests needs."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from xdist.scheduler import LoadScopeScheduling

from app.database import make_engine, transaction
from app.migrations import migrate
from app.models import Base
from app.settings import Settings
from tests import services


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests share its fixtures, those of the API also what they saw (its recorder)."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/api" if file.startswith("tests/api/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """What goes to one process when several run the tests."""
    return ByRoom(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server."""
    # Not below pytest's own directory: another pytest on the machine makes that unreadable for
    # the server's user.
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
    """A migrated database on PostgreSQL, one for the session; tests empty its tables."""
    with services.fresh_database(postgres_server, f"plaudit_{secrets.token_hex(4)}") as url:
        engine = make_engine(url)
        migrate(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()  # the last connection writes the log back into the file
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database; every test that touches data runs on both kinds."""
    return empty_database(request.param, request, tmp_path)


def empty_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database: ``sqlite`` or ``postgresql``."""
    if kind == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        engine = make_engine(url)
        # Ten times as fast as TRUNCATE, which makes new files.
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        engine.dispose()
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
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of an embedded service on the test's database."""
    return Settings(database_url=database_url, data_dir=tmp_path / "data")  # type: ignore[arg-type]
