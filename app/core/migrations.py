"""Database migrations with Alembic."""

from __future__ import annotations

from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from app.core.database import create_sqlite_file, has_file

#: The migrations are next to the package in a checkout, and inside it in an installed wheel.
_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE.parent / "alembic", _PACKAGE / "_alembic")


def migrate(engine: Engine) -> None:
    """Upgrade the database to the newest revision, if it is not there yet."""
    create_sqlite_file(engine)
    config = _config()
    config.attributes["engine"] = engine
    alembic.command.upgrade(config, "head")


def is_current(engine: Engine) -> bool:
    """Return whether the database is at the newest revision."""
    if not has_file(engine):
        return False
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == head


def _config() -> Config:
    config = Config()
    place = next(place for place in _PLACES if (place / "env.py").is_file())
    config.set_main_option("script_location", str(place).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
