"""Requests and finds merged exports of adapters."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.core.database import new_id
from app.core.settings import Settings
from app.domain.lifecycle import LIVE
from app.job_queue import kinds, transitions
from app.merges.errors import AlreadyMergedError, MergeInexactError
from app.models import Job
from app.storage.quota import check_storage_quota


def request_merge(session: Session, settings: Settings, tenant_id: str, adapter_id: str) -> Job:
    """Return the job of the adapter's merged export.

    A job is queued unless one is queued, running, paused or has succeeded.

    Raises:
        AdapterNotFoundError, AlreadyMergedError, MergeInexactError, QuotaError
    """
    source = adapters.get(session, tenant_id, adapter_id)
    if source.summary.get("is_merged"):
        raise AlreadyMergedError(f"{adapter_id} is a merged export.")
    # Without the lock, two concurrent requests would each queue a job.
    trained = session.get_one(Job, source.job_id, with_for_update={"key_share": True})
    known = newest_merge(session, tenant_id, source.job_id)
    if known is not None and (known.adapter_id or known.status in LIVE):
        return known
    if source.summary.get("quantization", "none") != "none":
        raise MergeInexactError(
            f"{adapter_id} was trained on a {source.summary['quantization']} base model.",
            hint=MergeInexactError.next_step,
        )
    check_storage_quota(session, settings, tenant_id, 0)
    return transitions.insert_job(
        session,
        Job(
            id=new_id("job"),
            tenant_id=tenant_id,
            kind=kinds.MERGE.name,
            queue=kinds.MERGE.queue(settings),
            spec=trained.spec,
            spec_sha256=trained.spec_sha256,
            plan=trained.plan,
            base_model=source.base_model,
            parent_job_id=source.job_id,
        ),
    )


def newest_merge(session: Session, tenant_id: str, job_id: str) -> Job | None:
    """Return the newest merge of the adapter that a job trained."""
    return session.scalar(
        select(Job)
        .where(
            Job.tenant_id == tenant_id,
            Job.kind == kinds.MERGE.name,
            Job.parent_job_id == job_id,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
