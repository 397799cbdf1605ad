"""Migrations on both databases: up, down, up again, and the same tables as the models."""

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
    """An engine on a database without tables."""
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


def test_every_revision_goes_up_down_and_up_again(empty: Engine) -> None:
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


@pytest.mark.filterwarnings("ignore:autogenerate skipping:UserWarning")  # SQLite, expressions
def test_migrated_tables_are_those_of_the_models(empty: Engine) -> None:
    migrate(empty)
    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    if empty.dialect.name == "sqlite":  # cannot reflect an index on an expression
        differences = [d for d in differences if getattr(d[1], "name", "") != "ix_jobs_claim"]
    assert differences == []


def test_the_claim_index_is_there(empty: Engine) -> None:
    migrate(empty)
    with empty.connect() as connection:
        query = (
            "SELECT name FROM sqlite_master WHERE type = 'index'"
            if empty.dialect.name == "sqlite"
            else "SELECT indexname FROM pg_indexes"
        )
        names = {row[0] for row in connection.exec_driver_sql(query)}
    assert {"ix_jobs_claim", "ix_jobs_running", "ux_blobs_sha256"} <= names
