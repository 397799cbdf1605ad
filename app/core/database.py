"""Engines, transactions and the database clock, for PostgreSQL and SQLite."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import uuid_utils
from pydantic_core import from_json
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Engine,
    MetaData,
    Select,
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

#: psycopg's code for the binary format. Importing psycopg for it would require libpq, which an
#: embedded service does not have.
BINARY_FORMAT = 1
#: A pooled connection that was idle for longer than this is pinged before it is used.
IDLE_SECONDS = 2.0

AnySelect = TypeVar("AnySelect", bound=Select[*tuple[Any, ...]])


class Base(DeclarativeBase):
    """Base class of all tables; it names constraints so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class now_ms(GenericFunction[int]):  # noqa: N801 - an SQL function, named as in SQL
    """The database's clock in epoch milliseconds. Clocks of different hosts are never compared."""

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
    """Return the column in a form that no index covers.

    Use it to order the few rows of a partial index: without it, SQLite scans all jobs of the tenant
    in the order of a full index.
    """
    return column.concat(literal_column("''"))


def newest_first(
    statement: AnySelect, key: SQLColumnExpression[str], limit: int, after: str | None
) -> AnySelect:
    """Restrict a query to one keyset page, ordered by descending ``key``.

    The query returns up to ``limit + 1`` rows whose key is below ``after``. The extra row tells
    ``app.web.pagination.Page`` that more pages exist.
    """
    if after is not None:
        statement = statement.where(key < after)
    return statement.order_by(key.desc()).limit(limit + 1)


def new_id(prefix: str) -> str:
    """Return a new id that sorts by time: the prefix, ``_`` and a UUIDv7 as 32 hex digits."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def make_engine(url: str, pool_size: int = 8, *, is_reader: bool = False) -> Engine:
    """Create an engine for either database. It opens no connection until it is used.

    With ``is_reader`` the engine uses no transactions: its PostgreSQL connections stay in
    AUTOCOMMIT mode, which makes a short query take a third less time.
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
            # A frozen process keeps the lock on the row that it was writing until the last of these
            # timeouts. No one can cancel or take over that job meanwhile, so it must be much
            # shorter than a lease.
            "options": "-c statement_timeout=60s -c lock_timeout=10s"
            " -c idle_in_transaction_session_timeout=30s",
            # Detect a vanished peer within about 25 s, well within a lease.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 25_000,
        },
    )
    _ping_when_idle(engine)
    _use_binary_results_on_request(engine)
    return engine


def _ping_when_idle(engine: Engine) -> None:
    """Ping a connection before use, unless it was used a moment ago.

    A ping before every use (``pool_pre_ping``) took a third of the time of a status poll. When the
    server restarts under load, the first failing connection makes the pool replace all of them.
    """

    @event.listens_for(engine, "checkin")
    def _record_use(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("used_at", math.inf) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError("the server closed the connection") from error


def _use_binary_results_on_request(engine: Engine) -> None:
    """Let the execution option ``binary_results`` select the binary format for result values.

    In text format every byte of a blob takes two and must be decoded: 100 MB/s instead of 360.
    """

    @event.listens_for(engine, "before_cursor_execute")
    def _select_format(
        _connection: object,
        cursor: Any,
        _statement: object,
        _parameters: object,
        context: ExecutionContext,
        _is_many: object,
    ) -> None:
        if context and context.execution_options.get("binary_results"):
            cursor.format = BINARY_FORMAT


def reader(engine: Engine) -> Engine:
    """Return an engine for reads on the same pool.

    Reads take no write lock on SQLite and need no BEGIN round trip on PostgreSQL.
    """
    if engine.dialect.name == "sqlite":
        return engine.execution_options(read_only=True)
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Run a block in one transaction: commit at its end, roll back if it raises."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    path = Path(make_url(url).database or "")
    address = f"file:{quote(str(path))}?mode=rw"

    def connect() -> sqlite3.Connection:
        # mode=rw never creates the file: if it is moved or deleted while the service runs, SQLite
        # would silently create a new and empty database. ``create_sqlite_file`` creates the file.
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
    def _check_file(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if _inode(path) != record.info.get("inode"):
            raise InvalidatePoolError("the database file was moved or replaced")

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        record.info["inode"] = _inode(path)
        connection.isolation_level = None  # the listener below sends BEGIN
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # NORMAL can lose the last commits on power loss
            "busy_timeout=30000",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A deferred transaction that writes after reading can fail with SQLITE_BUSY at once,
        # regardless of the timeout. An IMMEDIATE one waits for its turn.
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def create_sqlite_file(engine: Engine) -> None:
    """Create the file of an SQLite database if it does not exist."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    path = Path(engine.url.database)
    # The database holds tenants' data, so other users of the machine must not read it. The mode of
    # an existing directory is left unchanged.
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
