"""Remains of ended jobs are collected as fast as they arise, by several processes at once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, insert, select, text
from sqlalchemy.exc import OperationalError

from app.core.broker import make_tickets
from app.core.database import new_id, now_ms, transaction
from app.core.settings import Settings
from app.job_queue import checkpoints, reconciler
from app.job_queue.reconciler import Reconciler
from app.jobs import service
from app.models import Blob, BlobChunk, Checkpoint, Job, JobReport, StoredFile
from app.storage import blobs
from tests.job_queue.factories import TENANT, queue_job, read_job
from tests.services import wait_until

#: More than two rounds collect.
MANY = 230


@pytest.fixture
def ended_job(engine: Engine) -> str:
    """Create a cancelled job with many checkpoints, and as many old orphaned blobs."""
    job_id = queue_job(engine, status="cancelled", checkpoint_id="ckpt_0")
    orphans: list[dict[str, Any]] = [
        {"id": new_id("blob"), "state": "ready", "sha256": f"{i:064x}", "size": 1, "created_at": 1}
        for i in range(MANY)
    ]
    with transaction(engine) as session:
        session.execute(insert(Blob), orphans)
        session.execute(
            insert(BlobChunk), [{"blob_id": o["id"], "seq": 0, "data": b"x"} for o in orphans]
        )
        session.execute(
            insert(Checkpoint),
            [
                {"id": f"ckpt_{i}", "job_id": job_id, "attempt": 1, "step": i, "bytes": 1}
                for i in range(MANY)
            ],
        )
    return job_id


def left(engine: Engine) -> list[int]:
    with transaction(engine) as session:
        return [
            session.scalar(select(func.count()).select_from(table)) or 0
            for table in (Checkpoint, Blob, BlobChunk)
        ]


def test_full_collection_is_repeated_in_the_next_round(
    engine: Engine, settings: Settings, ended_job: str
) -> None:
    quick = settings.model_copy(update={"reconcile_seconds": 0.01})
    thread = Reconciler(engine, quick, make_tickets(quick))
    thread._collect_from = 0  # not after ten minutes
    thread.start()
    try:
        wait_until("the last of them to go", lambda: left(engine) == [0, 0, 0])
    finally:
        thread.stop()
    assert read_job(engine, ended_job).checkpoint_id is None


@pytest.mark.parametrize(
    "error", [OperationalError("DELETE", None, Exception("it is locked")), ValueError("a bad row")]
)
def test_failed_collection_does_not_stop_tickets(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failed: list[Engine] = []
    issued = threading.Semaphore(0)

    def fail(engine: Engine) -> bool:
        failed.append(engine)
        raise error

    monkeypatch.setattr(reconciler, "collect", fail)
    monkeypatch.setattr(reconciler, "issue_missing", lambda *_: issued.release())
    quick = settings.model_copy(update={"reconcile_seconds": 0.01})
    thread = Reconciler(engine, quick, make_tickets(quick))
    thread._collect_from = 0
    thread.start()
    try:
        assert all(issued.acquire(timeout=30) for _ in range(3))
    finally:
        thread.stop()
    assert len(failed) == 1


def test_job_can_be_deleted_while_its_checkpoints_are_collected(
    engine: Engine, ended_job: str
) -> None:
    with transaction(engine) as session:
        blob_id = session.scalars(select(Blob.id)).first()
        file = StoredFile(owner_id="ckpt_0", name="x", blob_id=blob_id, sha256="0" * 64, size=1)
        session.add(file)
    collected: list[int] = []
    other = threading.Thread(target=lambda: collected.append(checkpoints.drop_finished(engine)))

    def is_waiting() -> bool:
        if engine.dialect.name == "sqlite":
            return True  # for the one write lock
        with engine.connect() as connection:
            return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    with transaction(engine) as session:

        @event.listens_for(session.connection(), "after_cursor_execute")
        def _meet(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "stored_files" in statement and "FROM checkpoints" in statement:
                other.start()
                wait_until("the collection to meet the deletion", is_waiting)

        service.remove(session, TENANT, ended_job)
        event.remove(session.connection(), "after_cursor_execute", _meet)
    other.join()
    assert collected == [0]
    assert left(engine)[0] == 0


def test_inspections_are_deleted_after_a_week_and_jobs_are_kept(engine: Engine) -> None:
    with transaction(engine) as session:
        week_ago = (session.scalar(select(now_ms())) or 0) - 7 * 86_400_000
    made = {
        (kind, finished_at): queue_job(
            engine,
            kind=kind,
            status="failed" if finished_at else "queued",
            finished_at=finished_at,
        )
        for kind in ("preflight", "merge", "train")
        for finished_at in (week_ago - 10_000, week_ago + 60_000, None)
    }
    old = made.pop(("preflight", week_ago - 10_000))
    with transaction(engine) as session:
        session.add(JobReport(job_id=old, name="dataset", attempt=1, document={}))
    reconciler.collect(engine)
    with transaction(engine) as session:
        assert set(session.scalars(select(Job.id))) == set(made.values())
        assert session.scalar(select(func.count()).select_from(JobReport)) == 0


def test_concurrent_collections_delete_each_blob_once(
    engine: Engine, ended_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: Counter[str] = Counter()
    remove = blobs.remove

    def counted(engine: Engine, blob_id: str) -> None:
        removed[blob_id] += 1
        remove(engine, blob_id)

    monkeypatch.setattr(blobs, "remove", counted)
    gate = threading.Barrier(2)

    def collect_all() -> None:
        gate.wait()
        while reconciler.collect(engine):
            pass

    threads = [threading.Thread(target=collect_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(engine) == [0, 0, 0]
    assert (len(removed), set(removed.values())) == (MANY, {1})
    assert read_job(engine, ended_job).checkpoint_id is None
