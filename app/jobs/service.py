"""Operations of owners on their jobs: submit, change, cancel, pause, resume, delete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.database import new_id
from app.core.errors import InvalidSpecError, QuotaError
from app.core.leased_queue import update_returning
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState, JobStatus
from app.domain.plan import TrainingPlan
from app.domain.spec import EvalFraction, RewardJobSpec
from app.domain.warnings import WarningCode
from app.job_queue import idempotency, kinds, transitions
from app.job_queue.kinds import JobKind
from app.jobs import cloning
from app.jobs.errors import (
    JobFinishedError,
    JobLiveError,
    JobStateError,
    job_not_found,
)
from app.jobs.estimates import estimate
from app.models import Adapter, Checkpoint, Job, JobEvalDataset, JobReport, StoredFile
from app.storage.quota import check_storage_quota

NOT_INSPECTED = {
    "code": WarningCode.NOT_INSPECTED,
    "message": "No worker had inspected this base model when the job was submitted, so the worker "
    "that runs the job checks the spec first.",
}


@dataclass(frozen=True)
class Submission:
    """A checked request for a new job."""

    spec: RewardJobSpec
    plan: TrainingPlan | None
    idempotency_key: str | None = None
    parent: Job | None = None
    from_checkpoint: bool = False


def submit(
    session: Session, settings: Settings, tenant_id: str, submission: Submission
) -> tuple[Job, bool]:
    """Queue a job; return it and whether an earlier request created it already.

    Raises:
        KeyReusedError, QuotaError, InvalidSpecError, JobStateError
    """
    spec, parent = submission.spec, submission.parent
    if known := find_replay(session, tenant_id, submission):
        return known, True
    check_queue_quota(session, settings, tenant_id, kinds.TRAIN)
    check_storage_quota(session, settings, tenant_id, 0)  # there must be space for its adapter
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        kind=kinds.TRAIN.name,
        queue=kinds.TRAIN.queue(settings),
        name=spec.name,
        labels=dict(spec.metadata),
        priority=spec.priority,
        needs_gpu=spec.needs_gpu,
        # Without defaults: those may depend on the base model.
        spec=spec.model_dump(mode="json", exclude_unset=True),
        spec_sha256=_fingerprint(submission),
        plan=submission.plan.model_dump(mode="json") if submission.plan else None,
        base_model=spec.base_model,
        train_dataset_id=spec.train_dataset,
        eval_dataset_id=None if isinstance(spec.eval_dataset, EvalFraction) else spec.eval_dataset,
        eval_datasets=[
            JobEvalDataset(name=name, dataset_id=each) for name, each in spec.eval_datasets.items()
        ],
        parent_job_id=parent.id if parent else None,
        idempotency_key=submission.idempotency_key,
        warnings=submission.plan.data_warnings() if submission.plan else [NOT_INSPECTED],
    )
    try:
        job, is_replay = idempotency.insert_once(session, job)
    except IntegrityError as error:  # a foreign key: a dataset was deleted meanwhile
        raise InvalidSpecError(
            "A dataset of this spec was deleted.", hint="Upload it again."
        ) from error
    if is_replay:
        return job, True
    if submission.plan is not None:
        document = estimate(session.connection(), submission.plan).model_dump()
        session.add(JobReport(job_id=job.id, name="estimate", attempt=0, document=document))
    if parent is not None and submission.from_checkpoint:
        cloning.copy_checkpoint(session, parent, job)
    return job, False


def find_replay(session: Session, tenant_id: str, submission: Submission) -> Job | None:
    """Return the job that the same request created in the last 24 hours, or None.

    Raises:
        KeyReusedError: the key created a job from another request.
    """
    key = submission.idempotency_key
    return idempotency.find_replay(session, tenant_id, key, _fingerprint(submission))


def get(session: Session, tenant_id: str, job_id: str) -> Job:
    """Return a job of this tenant, or raise JobNotFoundError."""
    job = session.scalar(
        select(Job).where(
            Job.id == job_id, Job.tenant_id == tenant_id, kinds.is_listed(Job.kind)
        )
    )  # fmt: skip
    if job is None:
        raise job_not_found(job_id)
    return job


def cancel(session: Session, tenant_id: str, job_id: str, *, keep_checkpoint: bool = False) -> Job:
    """Cancel a waiting job, or ask a running one to stop. Repeating it is not an error."""
    return _set_desired_state(
        session, tenant_id, job_id, DesiredState.CANCEL, keep_checkpoint=keep_checkpoint
    )


def pause(session: Session, tenant_id: str, job_id: str) -> Job:
    """Pause a waiting job immediately, or ask a running one to save a checkpoint and stop."""
    return _set_desired_state(session, tenant_id, job_id, DesiredState.PAUSE)


def resume(session: Session, tenant_id: str, job_id: str) -> Job:
    """Queue a paused job again; it resumes from its checkpoint."""
    return _set_desired_state(session, tenant_id, job_id, DesiredState.RUN)


def change(session: Session, tenant_id: str, job_id: str, changes: Mapping[str, Any]) -> Job:
    """Change ``name``, ``metadata``, ``notes`` or, while the job waits, ``priority``.

    Raises:
        JobNotFoundError, JobStateError
    """
    get(session, tenant_id, job_id)
    columns = {"name": "name", "priority": "priority", "metadata": "labels", "notes": "notes"}
    conditions = [Job.id == job_id, Job.tenant_id == tenant_id]
    if "priority" in changes:
        conditions.append(
            or_(
                Job.status.in_([JobStatus.QUEUED, JobStatus.PAUSED]),
                Job.priority == changes["priority"],
            )
        )
    changed = update_returning(
        session,
        Job,
        conditions,
        version=Job.version + 1,
        **{columns[name]: value for name, value in changes.items()},
    )
    if not changed:
        raise JobStateError(
            "The priority of a job can change only while the job waits.", hint="Omit priority."
        )
    return changed[0]


def remove(session: Session, tenant_id: str, job_id: str) -> None:
    """Delete a finished job with its adapter, checkpoints, events, metrics and logs."""
    get(session, tenant_id, job_id)
    # The job is locked first, as everywhere, so that this and a collection cannot deadlock.
    session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
    for table in (Adapter, Checkpoint):
        owners = select(table.id).where(table.job_id == job_id)
        session.execute(
            delete(StoredFile)
            .where(StoredFile.owner_id.in_(owners))
            .execution_options(synchronize_session=False)
        )
    if not transitions.delete_job(session, tenant_id, job_id):
        raise JobLiveError(
            f"{job_id} is not finished.", hint=f"Cancel it first: POST /v1/jobs/{job_id}/cancel."
        )


def _fingerprint(submission: Submission) -> str:
    """Return a hash (sha256, hex) that is equal for requests with the same content."""
    parent = submission.parent
    parts: list[Any] = [parent.id if parent else None]
    parts.append(submission.spec.model_dump(mode="json", exclude_unset=True))
    if submission.from_checkpoint:
        parts.append("from_checkpoint")
    document = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def _set_desired_state(
    session: Session,
    tenant_id: str,
    job_id: str,
    desired: DesiredState,
    *,
    keep_checkpoint: bool = False,
) -> Job:
    job = transitions.set_desired_state(
        session, tenant_id, job_id, desired, keep_checkpoint=keep_checkpoint
    )
    if job is None:
        return _check_cancelled(get(session, tenant_id, job_id), desired)
    if job.desired != desired:
        raise JobStateError(f"{job_id} is being cancelled.", hint="Clone the job to run it again.")
    return job


def _check_cancelled(job: Job, desired: DesiredState) -> Job:
    """Return a finished job if the request is a repeated cancel; else raise JobFinishedError."""
    if desired == DesiredState.CANCEL and job.status == JobStatus.CANCELLED:
        return job
    raise JobFinishedError(
        f"{job.id} is {job.status}.", hint=f"Clone it: POST /v1/jobs/{job.id}/clone."
    )


def check_queue_quota(session: Session, settings: Settings, tenant_id: str, kind: JobKind) -> None:
    """Raise QuotaError if as many jobs of this kind wait as the tenant may have."""
    waiting = session.execute(
        select(func.count()).where(
            Job.tenant_id == tenant_id,
            Job.kind == kind.name,
            text("status IN ('queued', 'paused')"),  # spelled as in the index ix_jobs_waiting
        )
    ).scalar_one()
    if waiting >= settings.quota_queued:
        raise QuotaError(
            f"{waiting} jobs are waiting, and the quota is {settings.quota_queued}.",
            hint="Wait until some jobs start, or cancel some.",
        )
