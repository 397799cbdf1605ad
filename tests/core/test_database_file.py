"""The file of an SQLite database: moved away, replaced, damaged, foreign or of a newer version."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from app.cli.database import connect_database
from app.cli.exit_codes import CommandError
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.models import Job


@pytest.fixture
def file(tmp_path: Path, sqlite_template: Path) -> Path:
    """A migrated database."""
    path = tmp_path / "plaudit.db"
    shutil.copyfile(sqlite_template, path)
    return path


def count_jobs(engine: Engine) -> int:
    with transaction(engine) as session:
        return len(session.scalars(select(Job)).all())


def test_file_that_is_moved_away_is_an_error_and_is_not_made_again(file: Path) -> None:
    engine = make_engine(f"sqlite:///{file}")
    assert count_jobs(engine) == 0
    moved = file.rename(file.with_name("elsewhere.db"))
    for _ in range(2):
        with pytest.raises(DBAPIError):
            count_jobs(engine)
    assert not file.exists()
    moved.rename(file)
    assert count_jobs(engine) == 0
    engine.dispose()


def test_file_that_is_replaced_is_opened_anew(file: Path, sqlite_template: Path) -> None:
    engine = make_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mark (a)"))
    engine.dispose()
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM mark"))
    backup = file.with_name("backup.db")
    shutil.copyfile(sqlite_template, backup)
    backup.replace(file)
    with pytest.raises(OperationalError, match="no such table"), engine.connect() as connection:
        connection.execute(text("SELECT * FROM mark"))
    engine.dispose()


def damage_header(file: Path) -> None:
    file.write_bytes(b"not a database" * 1000)


def make_foreign(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE jobs (a)")
    connection.close()


def make_newer(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffff'")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "detail", "hint"),
    [
        (damage_header, "not a database", "Restore the file from a backup"),
        (make_foreign, "already exists", "Another program uses this database"),
        (make_newer, "ffff", "A newer version of Plaudit"),
    ],
)
def test_unusable_file_is_named_without_a_traceback(
    file: Path, spoil: object, detail: str, hint: str
) -> None:
    spoil(file)  # type: ignore[operator]
    settings = Settings(database_url=f"sqlite:///{file}")  # type: ignore[arg-type]
    with pytest.raises(CommandError) as refused, connect_database(settings) as engine:
        migrate(engine)
    assert detail in str(refused.value)
    assert hint in str(refused.value.hint)
