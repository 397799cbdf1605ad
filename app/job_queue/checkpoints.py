"""Checkpoints: what an attempt leaves for the next one."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, delete, func, or_, select, update

from app.core.database import new_id, now_ms, reader, transaction
from app.core.settings import Settings
from app.domain.lifecycle import TERMINAL, JobStatus
from app.domain.progress import CheckpointSaved
from app.job_queue import transitions
from app.job_queue.events import Event
from app.job_queue.transitions import Lease
from app.models import Checkpoint, Job, StoredFile
from app.storage.artifact_files import file_rows, store

#: Kept while a job lives: the last two (one may be damaged) and the best.
KEPT_CHECKPOINTS = 2
#: So long a failed job's checkpoints are kept: a clone with other limits may go on from them.
FAILED_KEPT_MS = 86_400_000
#: By fencing token, not by id: ids carry the clock of the worker that made them.
NEWEST_FIRST = (Checkpoint.attempt.desc(), Checkpoint.step.desc(), Checkpoint.id.desc())


def save(
    engine: Engine, settings: Settings, lease: Lease, directory: Path, saved: CheckpointSaved
) -> None:
    """Store a checkpoint's files, then point the job at it; older ones are let go.

    One that is newer than all before is progress: what went wrong until then is forgiven.
    """
    blobs = store(engine, settings, directory, saved.files)
    checkpoint_id = new_id("ckpt")
    size = sum(entry.size for entry in saved.files)
    event = Event("checkpoint", f"Checkpoint at step {saved.step}.", {"step": saved.step})
    with transaction(engine) as session:
        newest = session.scalar(
            select(func.max(Checkpoint.step)).where(Checkpoint.job_id == lease.job_id)
        )
        is_progress = newest is None or saved.step > newest
        transitions.fence(
            session,
            lease,
            round(settings.lease_seconds * 1000),
            [event],
            checkpoint_id=checkpoint_id,
            **(dict.fromkeys(("failures", "crashes", "stalls"), 0) if is_progress else {}),
        )
        if saved.is_best:
            session.execute(
                update(Checkpoint).where(Checkpoint.job_id == lease.job_id).values(is_best=False)
            )
        session.add(
            Checkpoint(
                id=checkpoint_id,
                job_id=lease.job_id,
                attempt=lease.attempt,
                step=saved.step,
                is_best=saved.is_best,
                bytes=size,
                metrics=dict(saved.metrics),
            )
        )
        session.add_all(file_rows(checkpoint_id, blobs))
        session.flush()
        old = list(
            session.scalars(
                select(Checkpoint.id)
                .where(Checkpoint.job_id == lease.job_id, Checkpoint.is_best.is_(False))
                .order_by(*NEWEST_FIRST)
                .offset(KEPT_CHECKPOINTS)
            )
        )
        session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(old)))
        session.execute(delete(Checkpoint).where(Checkpoint.id.in_(old)))


def kept(engine: Engine, job_id: str) -> list[tuple[Checkpoint, list[StoredFile]]]:
    """The job's checkpoints, newest first, with their files."""
    with transaction(reader(engine)) as session:
        checkpoints = list(
            session.scalars(
                select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*NEWEST_FIRST)
            )
        )
        return [
            (
                checkpoint,
                list(
                    session.scalars(select(StoredFile).where(StoredFile.owner_id == checkpoint.id))
                ),
            )
            for checkpoint in checkpoints
        ]


def drop_ended(engine: Engine, limit: int = 100) -> int:
    """Let go of the checkpoints of ended jobs, except those asked to be kept; how many were found.

    Several processes may do so at once: they lock the jobs in the same order.
    """
    with transaction(engine) as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.job_id)
            .join(Job, Job.id == Checkpoint.job_id)
            .where(
                Job.status.in_(TERMINAL),
                Job.keep_checkpoint.is_(False),
                or_(
                    Job.status != JobStatus.FAILED,
                    Job.finished_at < now_ms() - FAILED_KEPT_MS,
                ),
            )
            .order_by(Checkpoint.id)
            .limit(limit)
            .with_for_update(of=Job, key_share=True)
        ).all()
        ended = [checkpoint_id for checkpoint_id, _ in rows]
        session.execute(
            update(Job)
            .where(Job.id.in_([job_id for _, job_id in rows]))
            .values(checkpoint_id=None)
            .execution_options(synchronize_session=False)
        )
        session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(ended)))
        session.execute(delete(Checkpoint).where(Checkpoint.id.in_(ended)))
        return len(ended)
