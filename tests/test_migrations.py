"""Migrations work in both directions on both databases and create the tables of the models."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect

from app.core.database import create_sqlite_file, make_engine
from app.core.migrations import is_current, migrate
from app.models import Base
from tests.services import fresh_database

ALEMBIC = Path(__file__).parents[1] / "alembic"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on a database without tables."""
    if request.param == "sqlite":
        engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
        create_sqlite_file(engine)
        yield engine
        engine.dispose()
        return
    server: str = request.getfixturevalue("postgres_server")
    with fresh_database(server, f"migrate_{secrets.token_hex(4)}") as url:
        engine = make_engine(url)
        yield engine
        engine.dispose()


def test_every_revision_can_be_upgraded_and_downgraded(empty: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(ALEMBIC))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = empty
    revisions = [s.revision for s in ScriptDirectory.from_config(config).walk_revisions()]
    for revision in reversed(revisions):
        alembic.command.upgrade(config, revision)
        alembic.command.downgrade(config, "-1")
        alembic.command.upgrade(config, revision)
    alembic.command.downgrade(config, "base")
    assert set(inspect(empty).get_table_names()) == {"alembic_version"}


def test_migrating_twice_changes_nothing(empty: Engine) -> None:
    assert not is_current(empty)
    migrate(empty)
    assert is_current(empty)
    migrate(empty)
    assert is_current(empty)


@pytest.mark.filterwarnings("ignore:autogenerate skipping:UserWarning")  # for the same reason
def test_migrated_tables_equal_the_models(empty: Engine) -> None:
    migrate(empty)
    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    if empty.dialect.name == "sqlite":  # SQLAlchemy cannot reflect indexes on expressions there
        differences = [d for d in differences if getattr(d[1], "name", "") != "ix_jobs_claim"]
    assert differences == []


def test_indexes_that_queries_rely_on_exist(empty: Engine) -> None:
    migrate(empty)
    with empty.connect() as connection:
        query = (
            "SELECT name FROM sqlite_master WHERE type = 'index'"
            if empty.dialect.name == "sqlite"
            else "SELECT indexname FROM pg_indexes"
        )
        names = {row[0] for row in connection.exec_driver_sql(query)}
    assert {"ix_jobs_claim", "ix_jobs_running", "ux_blobs_sha256"} <= names
