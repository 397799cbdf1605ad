"""The statements that change a job's status, besides the claim.

Each is one statement whose guards are in its WHERE clause, the same on both databases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, literal, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.database import now_ms
from app.core.leased_queue import lock_picked, update_returning
from app.domain.lifecycle import TERMINAL, DesiredState, FailureCode, JobStatus
from app.job_queue import guards, kinds
from app.job_queue.events import Event, add_events, enqueue_status_webhook
from app.job_queue.lease import Lease, LeaseLostError, is_held
from app.job_queue.lease_watch import SeenLease
from app.models import Job
from app.usage import service as usage

RUNNING, QUEUED = JobStatus.RUNNING, JobStatus.QUEUED
SWEPT_AT_ONCE = 100
_LOST = "The job's workers were lost, one after another."
#: The status that a job which is not running gets for each desired state.
_IDLE_STATUS = {
    DesiredState.CANCEL: JobStatus.CANCELLED,
    DesiredState.PAUSE: JobStatus.PAUSED,
    DesiredState.RUN: JobStatus.QUEUED,
}
_REQUESTS = {
    DesiredState.CANCEL: "Cancel",
    DesiredState.PAUSE: "Pause",
    DesiredState.RUN: "Resume",
}


class DuplicateKeyError(Exception):
    """The tenant already has a job with this idempotency key."""


def insert_job(session: Session, job: Job) -> Job:
    """Queue a job with its first event.

    Raises:
        DuplicateKeyError: the tenant's idempotency key is taken; the session is still usable.
    """
    job.event_seq = 1
    try:
        with session.begin_nested():
            session.add(job)
            session.flush()
    except IntegrityError as error:
        if job.idempotency_key and "idempotency" in str(error.orig):
            raise DuplicateKeyError(job.idempotency_key) from error
        raise
    add_events(session, job.id, 0, 1, [Event("queued", "Queued.")])
    session.refresh(job)
    return job


def transition(
    session: Session,
    lease: Lease,
    status: JobStatus | ColumnElement[str],
    events: Sequence[Event],
    **values: Any,
) -> Job:
    """End the attempt: give the lease back and change the status, in one statement.

    Raises:
        LeaseLostError: nothing was written; roll back.
    """
    before = _runtimes(session, is_held(lease))
    changed = update_returning(
        session,
        Job,
        is_held(lease),
        status=status,
        event_seq=Job.event_seq + len(events),
        **_columns_on_leaving(status),
        **values,
    )
    if not changed:
        raise LeaseLostError(lease.job_id)
    (job,) = changed
    add_events(session, job.id, lease.attempt, job.event_seq, events)
    enqueue_status_webhook(session, job)
    _charge(session, job, before)
    return job


def status_after_failure(
    *, is_retryable: bool, max_failures: int, max_stalls: int
) -> ColumnElement[str]:
    """Return the status after a failed attempt: the desired one, queued again or failed."""
    has_tries = and_(Job.failures + 1 < max_failures, Job.stalls + 1 < max_stalls)
    return case(
        (Job.desired == DesiredState.CANCEL, JobStatus.CANCELLED.value),
        (has_tries if is_retryable else Job.id.is_(None), _waiting_status()),
        else_=JobStatus.FAILED.value,
    )


def status_after_release() -> ColumnElement[str]:
    """Return the status after a stop on request or by a drain, which is no failure."""
    return case(
        (Job.desired == DesiredState.CANCEL, JobStatus.CANCELLED.value), else_=_waiting_status()
    )


def sweep(
    session: Session,
    *,
    lost: Sequence[SeenLease],
    backoff_ms: int,
    max_crashes: int,
    max_stalls: int,
    owner_prefix: str | None = None,
) -> list[Job]:
    """Take back jobs whose leases are ``lost``, at most ``SWEPT_AT_ONCE``; return them.

    A lease that was renewed meanwhile is not lost. Any number of processes may sweep at once.

    With ``owner_prefix``, take back the jobs of one slot immediately, without waiting for their
    leases to expire: a supervisor that holds the slot's lock knows that its trainers are gone.
    """
    is_lost = (
        guards.is_lease_unchanged(lost[:SWEPT_AT_ONCE])
        if owner_prefix is None
        else guards.is_lease_of_slot(owner_prefix)
    )
    conditions = (guards.is_running(Job), is_lost)
    ids = lock_picked(select(Job.id).where(*conditions).limit(SWEPT_AT_ONCE))
    before = _runtimes(session, conditions)
    is_poison, is_stuck = Job.crashes + 1 >= max_crashes, Job.stalls + 1 >= max_stalls
    status = case(
        (Job.desired == DesiredState.CANCEL, JobStatus.CANCELLED.value),
        (or_(is_poison, is_stuck), JobStatus.FAILED.value),
        else_=_waiting_status(),
    )
    jobs = update_returning(
        session,
        Job,
        (guards.is_picked(ids), *conditions),
        status=status,
        crashes=Job.crashes + 1,
        stalls=Job.stalls + 1,
        failure_code=case((is_poison, FailureCode.POISON), (is_stuck, FailureCode.NO_PROGRESS)),
        failure_detail=case((or_(is_poison, is_stuck), _LOST)),
        failure_step=Job.step,
        run_after=now_ms() + backoff_ms,
        event_seq=Job.event_seq + 1,
        **_columns_on_leaving(status),
    )
    for job in jobs:
        event = Event("worker_lost", f"The worker was lost; the job is now {job.status}.")
        add_events(session, job.id, job.attempt, job.event_seq, [event])
        enqueue_status_webhook(session, job)
        _charge(session, job, before)
    return jobs


def set_desired_state(
    session: Session,
    tenant_id: str,
    job_id: str,
    desired: DesiredState,
    *,
    keep_checkpoint: bool = False,
) -> Job | None:
    """Store the desired state; the status of a job that is not running changes immediately.

    Return None when the tenant has no such job that is still live.
    """
    idle = _IDLE_STATUS[desired]
    status = case((Job.status == RUNNING, RUNNING.value), else_=idle.value)
    values: dict[str, Any] = {"keep_checkpoint": True} if keep_checkpoint else {}
    if desired == DesiredState.CANCEL:
        values["finished_at"] = case((Job.status == RUNNING, None), else_=now_ms())
        if not keep_checkpoint:
            values["checkpoint_id"] = case((Job.status == RUNNING, Job.checkpoint_id))
    live = (guards.is_job(job_id), guards.belongs_to(tenant_id), guards.is_live())
    changed = update_returning(
        session,
        Job,
        (*live, guards.is_not_being_cancelled(), guards.would_change(desired, idle)),
        desired=desired,
        status=status,
        event_seq=Job.event_seq + 1,
        version=Job.version + 1,
        **values,
    )
    if not changed:  # already in this state, or no such live job
        return session.scalar(select(Job).where(*live))
    (job,) = changed
    message = f"{_REQUESTS[desired]} requested; the job is {job.status}."
    add_events(session, job.id, job.attempt, job.event_seq, [Event(f"{desired}_asked", message)])
    if job.status != RUNNING:  # a running job changes its status when its worker stops
        enqueue_status_webhook(session, job)
    return job


def delete_job(session: Session, tenant_id: str, job_id: str) -> bool:
    """Delete a finished job with its events, metrics and logs; return whether there was one."""
    return bool(
        session.execute(
            delete(Job).where(
                guards.is_job(job_id), guards.belongs_to(tenant_id), guards.is_finished()
            )
        ).rowcount  # type: ignore[attr-defined]
    )


def _runtimes(session: Session, conditions: Sequence[ColumnElement[bool]]) -> dict[str, int]:
    """Return the runtimes of running jobs before their attempts end, by id."""
    rows = session.execute(select(Job.id, Job.runtime_ms).where(*conditions).limit(SWEPT_AT_ONCE))
    return {row.id: row.runtime_ms for row in rows}


def _charge(session: Session, job: Job, before: Mapping[str, int]) -> None:
    """Add the attempt that ended to the tenant's usage, if its kind counts."""
    kind = kinds.find(job.kind)
    if kind is not None and kind.counts_against_quota and job.id in before:
        usage.add(session, job.tenant_id, device_ms=max(job.runtime_ms - before[job.id], 0))


def _waiting_status() -> ColumnElement[str]:
    return case((Job.desired == DesiredState.PAUSE, JobStatus.PAUSED.value), else_=QUEUED.value)


def _columns_on_leaving(status: JobStatus | ColumnElement[str]) -> dict[str, Any]:
    """Return the columns that change whenever a job leaves ``running``."""
    status = literal(status.value) if isinstance(status, JobStatus) else status
    is_over = status.in_([s.value for s in TERMINAL])
    is_dropped = and_(status == JobStatus.CANCELLED, Job.keep_checkpoint.is_(False))
    # Count a dead worker's time only until its lease expired.
    stopped_at = case((Job.lease_expires_at < now_ms(), Job.lease_expires_at), else_=now_ms())
    ran_ms = stopped_at - Job.attempt_started_at
    return {
        "lease_owner": None,
        "lease_expires_at": None,
        "phase": None,
        # The clock may have stepped back during the attempt.
        "runtime_ms": Job.runtime_ms + case((ran_ms > 0, ran_ms), else_=0),
        "finished_at": case((is_over, now_ms())),
        "checkpoint_id": case((is_dropped, None), else_=Job.checkpoint_id),
        "version": Job.version + 1,
    }
