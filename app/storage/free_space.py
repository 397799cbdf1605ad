"""Free disk space of an embedded database.

SQLite needs space even to delete rows, because it writes to its log first. Bulk writes are
therefore rejected while there is still space for everything else. Other programs can fill the disk
anyway: for that case a file of ``RESERVE_FILE_BYTES`` is kept, and deleted when the disk is nearly
full.
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

#: Bulk writes are rejected when less is free.
RESERVED_BYTES = 256 << 20
RESERVE_FILE_BYTES = 32 << 20
#: The reserve file is deleted when less is free, and created again when ten times as much is free.
ALARM_BYTES = 16 << 20


class StorageFullError(ServiceError):
    """The disk of the service has no space for more data."""

    code = "storage_full"
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
            hint=StorageFullError.next_step,
        )


def is_full(error: BaseException) -> bool:
    """Return whether a database error was caused by a full disk."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return original.sqlite_errorcode == sqlite3.SQLITE_FULL
    if isinstance(original, OSError):
        return original.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(original, "sqlstate", None) == "53100"  # PostgreSQL: disk_full


class SpaceReserve:
    """The reserve file of an embedded service. Call ``tend`` every few seconds."""

    def __init__(self, engine: Engine) -> None:
        self._directory = database_directory(engine)

    @property
    def path(self) -> Path | None:
        """Path of the file; None without an SQLite database."""
        return self._directory / "reserve" if self._directory else None

    def tend(self) -> None:
        """Delete the file if the disk is nearly full; create it if there is enough space."""
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
