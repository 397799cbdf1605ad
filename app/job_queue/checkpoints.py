"""Checkpoints: the saved training states from which the next attempt resumes."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.core.database import new_id, now_ms, reader, transaction
from app.domain.lifecycle import TERMINAL, JobStatus
from app.domain.progress import CheckpointSaved
from app.job_queue.events import Event
from app.job_queue.lease import WriteContext, write_with_lease
from app.models import Checkpoint, Job, StoredFile
from app.storage.artifact_files import file_rows, store

#: Newest checkpoints kept while a job is live, besides the best: one of them may be damaged.
KEPT_CHECKPOINTS = 2
#: Milliseconds for which a failed job's checkpoints are kept: a clone with other limits may resume
#: from them.
FAILED_KEPT_MS = 86_400_000
#: Order by fencing token, not by id: ids carry the clock of the worker that made them.
NEWEST_FIRST = (Checkpoint.attempt.desc(), Checkpoint.step.desc(), Checkpoint.id.desc())


def save(context: WriteContext, directory: Path, saved: CheckpointSaved) -> None:
    """Store a checkpoint's files, make it the job's current one and drop older ones.

    A checkpoint at a later step than all earlier ones resets the counts of failures, crashes and
    stalls.

    Raises:
        ArtifactDamagedError, ArtifactTooLargeError: nothing was stored.
        LeaseLostError: the checkpoint was not recorded.
    """
    lease = context.lease
    blobs = store(context.engine, context.settings, directory, saved.files)
    checkpoint_id = new_id("ckpt")
    size = sum(entry.size for entry in saved.files)
    event = Event("checkpoint", f"Checkpoint at step {saved.step}.", {"step": saved.step})
    with transaction(context.engine) as session:
        newest = session.scalar(
            select(func.max(Checkpoint.step)).where(Checkpoint.job_id == lease.job_id)
        )
        is_progress = newest is None or saved.step > newest
        write_with_lease(
            session,
            lease,
            context.lease_ms,
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
        _drop_older(session, lease.job_id)


def list_with_files(engine: Engine, job_id: str) -> list[tuple[Checkpoint, list[StoredFile]]]:
    """Return the job's checkpoints, newest first, with their files."""
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


def drop_finished(engine: Engine, limit: int = 100) -> int:
    """Drop checkpoints of finished jobs that need not be kept; return how many were found.

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
        found = [checkpoint_id for checkpoint_id, _ in rows]
        session.execute(
            update(Job)
            .where(Job.id.in_([job_id for _, job_id in rows]))
            .values(checkpoint_id=None)
            .execution_options(synchronize_session=False)
        )
        session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(found)))
        session.execute(delete(Checkpoint).where(Checkpoint.id.in_(found)))
        return len(found)


def _drop_older(session: Session, job_id: str) -> None:
    """Drop the job's checkpoints other than the newest ones and the best."""
    old = list(
        session.scalars(
            select(Checkpoint.id)
            .where(Checkpoint.job_id == job_id, Checkpoint.is_best.is_(False))
            .order_by(*NEWEST_FIRST)
            .offset(KEPT_CHECKPOINTS)
        )
    )
    session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(old)))
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_(old)))
