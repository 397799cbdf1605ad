"""Free disk space of an embedded database.

SQLite needs space to delete rows and to change a state, because it writes the log first. Bulk
writes therefore stop while enough is left for everything else. Other programs may still fill the
disk: a file of ``RESERVE_FILE_BYTES`` is held for that moment and removed when it comes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from app.core.errors import ServiceError

log = structlog.get_logger()

#: Bulk writes stop when less is free.
RESERVED_BYTES = 256 << 20
RESERVE_FILE_BYTES = 32 << 20
#: The reserve file is released when less is free, and made again when ten times as much is.
ALARM_BYTES = 16 << 20


class StorageFullError(ServiceError):
    """The disk or the database of the service has no room for more data."""

    code = "storage_full"
    status = 507
    title = "The storage is full"
    next_step = "Delete datasets, adapters or jobs, or ask the operator for more disk space."


def database_directory(engine: Engine) -> Path | None:
    """Return the directory of an SQLite database, None for a database server."""
    path = engine.url.database
    return Path(path).parent if engine.dialect.name == "sqlite" and path else None


def check_free_space(engine: Engine, wanted_bytes: int) -> None:
    """Raise StorageFullError unless ``wanted_bytes`` fit above the reserve."""
    directory = database_directory(engine)
    if directory is None:
        return
    free = shutil.disk_usage(directory).free
    if free - wanted_bytes < RESERVED_BYTES:
        raise StorageFullError(
            f"{free >> 20} MiB are free, and {RESERVED_BYTES >> 20} MiB of them are reserved for "
            "deletes and changes of state.",
            hint="Delete what is not needed, or ask the operator for more disk space.",
        )


def is_full(error: BaseException) -> bool:
    """Return whether a database error says that its disk is full."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return original.sqlite_errorcode == sqlite3.SQLITE_FULL
    if isinstance(original, OSError):
        return original.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(original, "sqlstate", None) == "53100"  # PostgreSQL: disk_full


class SpaceReserve:
    """The reserve file of an embedded service; ``tend`` is called every few seconds."""

    def __init__(self, engine: Engine) -> None:
        self._directory = database_directory(engine)

    @property
    def path(self) -> Path | None:
        """Where the file is, None without an SQLite database."""
        return self._directory / "reserve" if self._directory else None

    def tend(self) -> None:
        """Release the file when the disk is nearly full, make it when there is room."""
        if self._directory is None or self.path is None:
            return
        free = shutil.disk_usage(self._directory).free
        if free < ALARM_BYTES and self.path.exists():
            self.path.unlink()
            log.error("storage_full", free_bytes=free, directory=str(self._directory))
        elif free > 10 * ALARM_BYTES + RESERVE_FILE_BYTES and not self.path.exists():
            _allocate(self.path, RESERVE_FILE_BYTES)


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
