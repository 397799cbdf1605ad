"""Factories: jobs and attempts without HTTP, and files as a trainer writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.orm import Session

from app.core.database import new_id, now_ms, reader, transaction
from app.core.settings import Settings
from app.domain.progress import CheckpointSaved, FileEntry, Packaged
from app.job_queue import checkpoints, reconciler, transitions, worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.lease_watch import SeenLease
from app.models import Job, JobEvent, Worker

TENANT = "acme"
QUEUE = "plaudit.default"
_IS_EXPIRED = Job.lease_expires_at < now_ms()


def make_job(session: Session, **fields: Any) -> Job:
    """Insert a queued job."""
    return transitions.insert_job(
        session,
        Job(
            **{
                "id": new_id("job"),
                "tenant_id": TENANT,
                "queue": QUEUE,
                "spec": {"base_model": "tiny", "train_dataset": "ds_" + "0" * 32},
                "spec_sha256": "0" * 64,
                "base_model": "tiny",
                **fields,
            }
        ),
    )


def queue_job(engine: Engine, **fields: Any) -> str:
    """Insert and commit a queued job; return its id."""
    with transaction(engine) as session:
        return make_job(session, **fields).id


def read_job(engine: Engine, job_id: str) -> Job:
    """Return the row as it is now."""
    with transaction(reader(engine)) as session:
        return session.get_one(Job, job_id)


def events_of(engine: Engine, job_id: str) -> list[JobEvent]:
    """Return the events of a job, in order."""
    with transaction(engine) as session:
        found = select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        return list(session.scalars(found))


def write_files(directory: Path, files: dict[str, bytes]) -> list[FileEntry]:
    """Write files; return their entries."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return [
        FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    ]


def write_checkpoint(directory: Path, step: int, **more: Any) -> CheckpointSaved:
    """Write a checkpoint; return the trainer's message about it."""
    files = write_files(directory, {"state.bin": b"%d" % step * 1000, "manifest.json": b"{}"})
    return CheckpointSaved(step=step, directory="checkpoint", files=files, **more)


def write_adapter(directory: Path, files: dict[str, bytes]) -> Packaged:
    """Write an adapter; return the trainer's message about it."""
    return Packaged(
        directory="adapter", files=write_files(directory, files), certificate={"is_verified": True}
    )


def claim(engine: Engine, settings: Settings, owner: str = "host-a/0:1") -> WriteContext:
    """Claim the next job as a worker."""
    claimed = worker_api.claim(engine, settings, QUEUE, owner, "host")
    assert claimed is not None
    return claimed.context


def update_job(engine: Engine, job_id: str, **values: Any) -> None:
    """Overwrite columns of a job."""
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def expired_leases(engine: Engine) -> list[SeenLease]:
    """Return the leases that have expired by the database's clock."""
    with transaction(reader(engine)) as session:
        lease = select(Job.id, Job.attempt, Job.lease_expires_at)
        return [SeenLease(*row) for row in session.execute(lease.where(_IS_EXPIRED))]


def requeue_expired(engine: Engine, settings: Settings) -> list[Job]:
    """Take back the jobs whose leases have expired by the database's clock."""
    return reconciler.requeue_lost(engine, settings, expired_leases(engine))


def lose_lease(context: WriteContext) -> None:
    """Let the lease run out and a sweep take the job back."""
    update_job(context.engine, context.job_id, lease_expires_at=now_ms() - 3_600_000)
    assert requeue_expired(context.engine, context.settings)
    update_job(context.engine, context.job_id, run_after=0)


def save_checkpoint(context: WriteContext, at: Path, step: int, **more: Any) -> None:
    """Write and store a checkpoint."""
    directory = at / f"{context.lease.attempt}-{step}"
    checkpoints.save(context, directory, write_checkpoint(directory, step, **more))


def count_rows(engine: Engine, table: type[Any]) -> int:
    """Return the number of rows of a table."""
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def register_worker(engine: Engine, queue: str, **columns: Any) -> None:
    """Insert a worker's registration for a queue."""
    row = {
        "id": "host-ab-77",
        "host": "host",
        "queue": queue,
        "slots": 1,
        "devices": [{"name": "H200"}],
        "versions": {"torch": "2.13.0"},
    }
    with transaction(engine) as session:
        session.execute(insert(Worker).values(row | columns))
