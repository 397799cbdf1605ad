"""A clone continues from its parent's checkpoint, even while the checkpoint is being deleted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from app.core.database import now_ms, transaction
from app.core.settings import Settings
from app.job_queue import checkpoints, worker_api
from app.jobs import cloning
from app.jobs.errors import JobStateError
from app.models import Blob, Job
from app.storage import artifact_files, blobs
from tests.job_queue.factories import QUEUE, make_job, queue_job, read_job, write_checkpoint


@pytest.fixture
def parent(engine: Engine, settings: Settings, tmp_path: Path) -> Job:
    """A job that failed long ago, with a checkpoint that may be deleted."""
    job_id = queue_job(engine)
    claimed = worker_api.claim(engine, settings, QUEUE, "host-a/0:1", "host")
    assert claimed is not None
    saved = write_checkpoint(tmp_path / "saved", 5)
    checkpoints.save(claimed.context, tmp_path / "saved", saved)
    with transaction(engine) as session:
        session.execute(
            update(Job).values(
                status="failed", lease_owner=None, lease_expires_at=None, finished_at=0
            )
        )
        session.execute(update(Blob).values(created_at=now_ms() - 10 * blobs.ORPHAN_MS))
    return read_job(engine, job_id)


def sweep(engine: Engine) -> None:
    checkpoints.drop_finished(engine)
    blobs.collect_garbage(engine)


def test_collection_waits_for_a_clone_that_copies_the_checkpoint(
    engine: Engine, parent: Job, tmp_path: Path
) -> None:
    with transaction(engine) as session:
        clone = make_job(session)
        cloning.copy_checkpoint(session, parent, clone)
        sweeper = threading.Thread(target=sweep, args=(engine,))
        sweeper.start()
        sweeper.join(timeout=0.5)
        assert sweeper.is_alive()
    sweeper.join(timeout=30)
    assert checkpoints.list_with_files(engine, parent.id) == []
    ((checkpoint, files),) = checkpoints.list_with_files(engine, clone.id)
    assert read_job(engine, clone.id).checkpoint_id == checkpoint.id
    for file in files:
        artifact_files.fetch(engine, file.blob_id, file.size, tmp_path / file.name, file.sha256)


def test_deleted_checkpoint_is_not_copied(engine: Engine, parent: Job) -> None:
    sweep(engine)
    with pytest.raises(JobStateError), transaction(engine) as session:
        cloning.copy_checkpoint(session, parent, make_job(session))
