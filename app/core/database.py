"""Engines, transactions and the database clock; SQLite and PostgreSQL behind one door."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uuid_utils
from pydantic_core import from_json
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Engine,
    MetaData,
    SQLColumnExpression,
    create_engine,
    event,
    literal_column,
    make_url,
)
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

#: Of values, in psycopg's terms; spelled out, for an embedded service does without libpq.
BINARY = 1
#: A pooled connection that rested longer than this is pinged before it is used.
IDLE_SECONDS = 2.0


class Base(DeclarativeBase):
    """Tables whose constraints have names that migrations can find again."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class now_ms(GenericFunction[int]):
    """The database's clock in epoch milliseconds; no worker's clock is ever compared."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_postgresql(_element: now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "sqlite")
def _now_sqlite(_element: now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; Debian 12 has 3.40.
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"


def not_by_index(column: SQLColumnExpression[str]) -> ColumnElement[str]:
    """The column, as no index has it.

    For small answers out of a partial index: SQLite would rather walk a tenant's jobs of all times
    in the order of a full one.
    """
    return column.concat(literal_column("''"))


def new_id(prefix: str) -> str:
    """An opaque id that sorts by time: ``job_`` and a UUIDv7 in hex."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def make_engine(url: str, pool_size: int = 8, *, is_reader: bool = False) -> Engine:
    """An engine for either database; opens nothing until it is used.

    One that only reads does so without transactions: its connections are PostgreSQL's own
    AUTOCOMMIT for good, which spares each look a third of its time.
    """
    if make_url(url).get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, pool_size)
        return reader(engine) if is_reader else engine
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=10,
        isolation_level="AUTOCOMMIT" if is_reader else None,
        json_serializer=_to_json,
        json_deserializer=from_json,
        connect_args={
            "connect_timeout": 5,
            "application_name": "plaudit",
            # A frozen process holds the row that it was writing for as long as the last of these:
            # nobody sweeps or cancels that job, so it is a small part of a lease.
            "options": "-c statement_timeout=60s -c lock_timeout=10s"
            " -c idle_in_transaction_session_timeout=30s",
            # A peer that vanished is noticed in about 25 s, well inside the lease.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 25_000,
        },
    )
    _ping_when_idle(engine)
    _send_binary_when_asked(engine)
    return engine


def _ping_when_idle(engine: Engine) -> None:
    """Look whether the server is still there, but not for a connection that was just used.

    A ping before every use (``pool_pre_ping``) cost a status poll a third of its time. When the
    server restarts under load, the first error of a busy connection makes the pool renew them all.
    """

    @event.listens_for(engine, "checkin")
    def _note(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("used_at", math.inf) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError("the server closed the connection") from error


def _send_binary_when_asked(engine: Engine) -> None:
    """With the execution option ``binary_results`` the server sends values as they are.

    As text a byte takes two and has to be decoded: chunks of a blob came at 100 MB/s, now at 360.
    """

    @event.listens_for(engine, "before_cursor_execute")
    def _choose(
        _connection: object,
        cursor: Any,
        _statement: object,
        _parameters: object,
        context: ExecutionContext,
        _is_many: object,
    ) -> None:
        if context and context.execution_options.get("binary_results"):
            cursor.format = BINARY


def reader(engine: Engine) -> Engine:
    """The same pool for reads: no write lock on SQLite, no BEGIN round trip on PostgreSQL."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(read_only=True)
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    path = Path(make_url(url).database or "")
    address = f"file:{quote(str(path))}?mode=rw"

    def connect() -> sqlite3.Connection:
        # mode=rw never creates the file: after a move or a deletion under a running service, a new
        # and empty database would take its place without a word. ``create_sqlite_file`` makes it.
        return sqlite3.connect(address, uri=True, timeout=30, check_same_thread=False)

    engine = create_engine(
        url,
        creator=connect,
        pool_size=pool_size,
        max_overflow=pool_size,
        json_serializer=_to_json,
        json_deserializer=from_json,
    )

    @event.listens_for(engine, "checkout")
    def _check_place(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if _inode(path) != record.info.get("inode"):
            raise InvalidatePoolError("the database file was moved or replaced")

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        record.info["inode"] = _inode(path)
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # NORMAL may lose the last commits at power loss
            "busy_timeout=30000",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A deferred transaction that starts to write late gets SQLITE_BUSY at once, in spite of
        # the timeout; IMMEDIATE waits its turn.
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def create_sqlite_file(engine: Engine) -> None:
    """Create the file of an SQLite database that is not there yet; nobody else may read it."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    path = Path(engine.url.database)
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    path.touch(0o600, exist_ok=True)


def has_file(engine: Engine) -> bool:
    """Return False only for an SQLite database whose file does not exist yet."""
    path = engine.url.database
    return engine.dialect.name != "sqlite" or not path or _inode(Path(path)) is not None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
