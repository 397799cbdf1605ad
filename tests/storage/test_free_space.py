"""A full disk: bulk writes are refused, and everything that frees space still works."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy import Engine, event, func, select
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app.core.database import make_engine, transaction
from app.models import Blob, BlobChunk
from app.storage import free_space
from app.storage.free_space import SpaceReserve, StorageFullError, check_free_space, is_full
from tests.world import World, pairs

JSONL = {"Content-Type": "application/x-ndjson"}


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def is_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that no disk meets."""
    monkeypatch.setattr(free_space, "RESERVED_BYTES", 1 << 60)


def count(engine: Engine, table: Any) -> int:
    with transaction(engine) as session:
        return session.scalars(select(func.count()).select_from(table)).one()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_upload_to_a_full_disk_is_refused_and_deletes_work(
    world: World, client: TestClient, engine: Engine, is_nearly_full: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(free_space, "RESERVED_BYTES", 0)
        kept = client.post("/v1/datasets", content=pairs(), headers=JSONL).json()["id"]
    chunks = count(engine, BlobChunk)
    answer = client.post("/v1/datasets", content=pairs(salt="x"), headers=JSONL)
    assert answer.status_code == 507
    assert answer.json()["code"] == "storage_full"
    assert "reserved for deletes" in answer.json()["detail"]
    assert (count(engine, BlobChunk), count(engine, Blob)) == (chunks, 1)
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"]["storage"] == "full"
    assert client.delete(f"/v1/datasets/{kept}").status_code == 204


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_database_server_has_a_disk_of_its_own(
    client: TestClient, engine: Engine, is_nearly_full: None
) -> None:
    check_free_space(engine, 1 << 40)
    assert client.post("/v1/datasets", content=pairs(), headers=JSONL).status_code == 201


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_database_that_cannot_grow_is_reported_as_full(
    app: Any, client: TestClient, engine: Engine
) -> None:
    @event.listens_for(app.state.engine, "connect")
    def _cap(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite raises it to the present size

    app.state.engine.dispose()
    answer = client.post("/v1/datasets", content=pairs(2000), headers=JSONL)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert count(engine, BlobChunk) == 0


def sqlite_error(code: int) -> OperationalError:
    original = sqlite3.OperationalError("no")
    original.sqlite_errorcode = code
    return OperationalError("INSERT", {}, original)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), True),
        (sqlite_error(sqlite3.SQLITE_BUSY), False),
        (OperationalError("INSERT", {}, psycopg.errors.DiskFull("no")), True),
        (OperationalError("INSERT", {}, psycopg.errors.AdminShutdown("no")), False),
        (OSError(errno.ENOSPC, "no"), True),
        (OSError(errno.EDQUOT, "no"), True),
        (OSError(errno.EACCES, "no"), False),
        (ValueError("disk is full"), False),
    ],
)
def test_errors_of_a_full_disk_are_recognised(error: BaseException, expected: bool) -> None:
    assert is_full(error) is expected


def test_check_counts_what_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    disk = Disk(1 << 40, 0, free_space.RESERVED_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    check_free_space(engine, 1000)
    with pytest.raises(StorageFullError):
        check_free_space(engine, 1001)


def test_reserve_file_is_released_when_the_disk_fills_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    free = 1 << 40
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 41, 0, free))
    reserve = SpaceReserve(engine)
    reserve.tend()
    path = reserve.path
    assert path is not None
    assert path.stat().st_size == free_space.RESERVE_FILE_BYTES
    assert path.stat().st_blocks * 512 >= free_space.RESERVE_FILE_BYTES
    free = free_space.ALARM_BYTES - 1
    reserve.tend()
    assert not path.exists()
    free = free_space.ALARM_BYTES + 1
    reserve.tend()
    assert not path.exists()
    free = 1 << 40
    reserve.tend()
    assert path.exists()
