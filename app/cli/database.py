"""Settings and database, for commands that run on the machine of the service.

SQLAlchemy and Alembic are imported where a command uses the database: importing them takes as long
as all that a client command does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from app.base_models.catalogue import Catalogue, CatalogueError, load_catalogue
from app.cli.exit_codes import CommandError, ExitCode
from app.core.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DatabaseError


def read_settings(**replaced: object) -> Settings:
    """Read the settings from the environment; arguments that are not None override them.

    Raises:
        CommandError: a setting is invalid.
    """
    given = {name: value for name, value in replaced.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{'_'.join(('PLAUDIT', *map(str, e['loc']))).upper()}: "
            + e["msg"].removeprefix("Value error, ")  # the prefix that pydantic adds
            for e in error.errors(include_input=False)
        ]
        raise CommandError("\n".join(lines), ExitCode.USAGE) from None


def read_catalogue(settings: Settings) -> Catalogue:
    """Load the catalogue of base models.

    Raises:
        CommandError: the catalogue is invalid.
    """
    try:
        return load_catalogue(settings.base_models)
    except CatalogueError as error:
        raise CommandError(
            f"The catalogue of base models is invalid: {error.detail}",
            ExitCode.USAGE,
            "Correct the file that PLAUDIT_BASE_MODELS names.",
        ) from error


@contextmanager
def connect_database(settings: Settings) -> Iterator[Engine]:
    """Connect to the database with any schema, and report its errors as ``CommandError``."""
    import alembic.util
    from sqlalchemy.exc import DatabaseError, ProgrammingError

    from app.core.database import make_engine

    try:
        engine = make_engine(settings.database, pool_size=1)
        try:
            yield engine
        finally:
            engine.dispose()
    except alembic.util.CommandError as error:
        raise CommandError(
            f"The database cannot be used: {error}.",
            ExitCode.FAILED,
            "A newer version of Plaudit created its tables: run that version, or restore a backup.",
        ) from error
    except DatabaseError as error:
        if isinstance(error, ProgrammingError) and error.statement is not None:
            raise  # a defect of Plaudit; without a statement, an invalid option in the URL
        reason = str(error.orig).strip().partition("\n")[0]
        raise CommandError(
            f"The database cannot be used: {reason}", ExitCode.AWAY, _hint(error)
        ) from error
    except OSError as error:
        if error.filename is None:
            raise
        raise CommandError(
            f"{error.filename} cannot be used: {error.strerror}.",
            ExitCode.USAGE,
            "PLAUDIT_DATA_DIR names the directory where the service stores its data.",
        ) from error


def _hint(error: DatabaseError) -> str | None:
    if not isinstance(error.orig, sqlite3.Error):
        return None
    if error.orig.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "Restore the file from a backup, or choose another one with PLAUDIT_DATABASE_URL."
    if error.orig.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN:
        return "Run 'plaudit migrate' first, or start 'plaudit serve', which creates the file."
    if "already exists" in str(error.orig):
        return "Another program uses this database: choose another one with PLAUDIT_DATABASE_URL."
    return None


@contextmanager
def open_database() -> Iterator[Engine]:
    """Connect to the database, which must have the schema of this version."""
    with connect_database(read_settings()) as engine:
        require_current(engine)
        yield engine


def require_current(engine: Engine) -> None:
    """Check that the database has the schema of this version.

    Raises:
        CommandError: the schema is older or newer.
    """
    from app.core.migrations import is_current

    if not is_current(engine):
        raise CommandError(
            "The database's schema does not match this version of Plaudit.",
            ExitCode.FAILED,
            "Run 'plaudit migrate' first.",
        )
