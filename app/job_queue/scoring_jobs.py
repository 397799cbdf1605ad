"""Functions shared by evaluations and score batches: both score a dataset with adapters."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.domain.lifecycle import DesiredState, JobStatus
from app.job_queue import transitions
from app.models import Checkpoint, Job, StoredFile

#: The columns of a job in a list: all but those that may be large.
LISTED: tuple[ColumnElement[Any], ...] = (
    *(c for c in Job.__table__.c if c.name not in ("plan", "result", "metadata")),
    Job.labels.label("labels"),
)


def needs_gpu(trained: Job) -> bool:
    """Return whether a job trained on a quantised base model, which no CPU can load."""
    return bool((trained.plan or {}).get("quantization", "none") != "none")


def cancel(session: Session, job: Job) -> Job | None:
    """Cancel a waiting job immediately, or ask a running one to stop.

    Return the job, also if it is already cancelled; return None if it has ended otherwise.
    """
    changed = transitions.set_desired_state(session, job.tenant_id, job.id, DesiredState.CANCEL)
    if changed is not None:
        return changed
    session.refresh(job)
    return job if job.status == JobStatus.CANCELLED else None


def remove(session: Session, job: Job, owner_id: str) -> bool:
    """Delete a finished job with the files of ``owner_id``; return False if it is not finished."""
    # The job is locked first, as everywhere, so that the garbage collection cannot deadlock.
    session.execute(select(Job.id).where(Job.id == job.id).with_for_update())
    checkpoints = select(Checkpoint.id).where(Checkpoint.job_id == job.id)
    for owners in (StoredFile.owner_id.in_(checkpoints), StoredFile.owner_id == owner_id):
        session.execute(
            delete(StoredFile).where(owners).execution_options(synchronize_session=False)
        )
    return transitions.delete_job(session, job.tenant_id, job.id)
