"""The door to the status column, beside the claim: guarded statements, one each, on both databases.

A claim hands out a lease with a fencing token (``attempt``). Every later write of that worker
starts with the fence, which takes the row's lock and refuses a lease that was lost: a sweep or
another claim cannot slip between the check and the write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.database import now_ms
from app.domain.lifecycle import TERMINAL, Desired, JobStatus
from app.job_queue import guards
from app.job_queue.events import Event, add_events, announce
from app.models import Job

RUNNING, QUEUED = JobStatus.RUNNING, JobStatus.QUEUED


class DuplicateKeyError(Exception):
    """This tenant has a job with this idempotency key."""


class LeaseLostError(Exception):
    """The job is no longer this worker's: write nothing, kill the trainer."""


@dataclass(frozen=True)
class Lease:
    """The right to write for a job; ``attempt`` is the fencing token."""

    job_id: str
    attempt: int
    owner: str


def insert_job(session: Session, job: Job) -> Job:
    """Queue a job with its first event.

    Raises:
        DuplicateKey: the tenant's idempotency key is taken; the session is still good.
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


def fence(
    session: Session, lease: Lease, lease_ms: int, events: Sequence[Event] = (), **values: Any
) -> Desired:
    """Renew the lease and write ``values`` and ``events``; what the owner of the job wants.

    Raises:
        LeaseLost: roll back.
    """
    if events or values:
        values["version"] = Job.version + 1
    row = session.execute(
        update(Job)
        .where(*_held(lease))
        .values(
            lease_expires_at=now_ms() + lease_ms, event_seq=Job.event_seq + len(events), **values
        )
        .returning(Job.event_seq, Job.desired)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LeaseLostError(lease.job_id)
    add_events(session, lease.job_id, lease.attempt, row.event_seq, events)
    return Desired(row.desired)


def leave(
    session: Session,
    lease: Lease,
    status: JobStatus | ColumnElement[str],
    events: Sequence[Event],
    **values: Any,
) -> Job:
    """Give the lease back and move on to ``status``, in one fenced statement.

    Raises:
        LeaseLost: roll back.
    """
    job = session.scalar(
        update(Job)
        .where(*_held(lease))
        .values(status=status, event_seq=Job.event_seq + len(events), **_left(status), **values)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise LeaseLostError(lease.job_id)
    add_events(session, job.id, lease.attempt, job.event_seq, events)
    announce(session, job)
    return job


def after_failure(is_retryable: bool, max_failures: int, max_stalls: int) -> ColumnElement[str]:
    """Where a failed attempt leads: what the owner wants first, then another try or the end."""
    has_tries = and_(Job.failures + 1 < max_failures, Job.stalls + 1 < max_stalls)
    return case(
        (Job.desired == Desired.CANCEL, JobStatus.CANCELLED.value),
        (has_tries if is_retryable else Job.id.is_(None), _waiting()),
        else_=JobStatus.FAILED.value,
    )


def after_release() -> ColumnElement[str]:
    """Where a job goes that was stopped on request or by a drain; never charged for it."""
    return case((Job.desired == Desired.CANCEL, JobStatus.CANCELLED.value), else_=_waiting())


def sweep(
    session: Session,
    *,
    grace_ms: int,
    backoff_ms: int,
    max_crashes: int,
    max_stalls: int,
    owner_prefix: str | None = None,
) -> list[Job]:
    """Take back jobs whose lease ran out; any process may, any number at once.

    With ``owner_prefix``: at once, for a supervisor that knows that its own slot's trainers are
    gone because it holds the slot's lock.
    """
    is_lost = (
        guards.is_lease_overdue(grace_ms)
        if owner_prefix is None
        else guards.is_lease_of_slot(owner_prefix)
    )
    lost = (guards.is_running(Job), is_lost)
    is_poison, is_stuck = Job.crashes + 1 >= max_crashes, Job.stalls + 1 >= max_stalls
    status = case(
        (Job.desired == Desired.CANCEL, JobStatus.CANCELLED.value),
        (or_(is_poison, is_stuck), JobStatus.FAILED.value),
        else_=_waiting(),
    )
    ids = select(Job.id).where(*lost).limit(100).with_for_update(skip_locked=True)
    jobs = list(
        session.scalars(
            update(Job)
            .where(guards.is_picked(ids), *lost)
            .values(
                status=status,
                crashes=Job.crashes + 1,
                stalls=Job.stalls + 1,
                failure_code=case((is_poison, "poison"), (is_stuck, "no_progress")),
                failure_detail=case(
                    (or_(is_poison, is_stuck), "The job's workers died, one after another.")
                ),
                failure_step=Job.step,
                run_after=now_ms() + backoff_ms,
                event_seq=Job.event_seq + 1,
                **_left(status),
            )
            .returning(Job)
            .execution_options(populate_existing=True)
        )
    )
    for job in jobs:
        event = Event("worker_lost", f"Its worker was lost; the job is now {job.status}.")
        add_events(session, job.id, job.attempt, job.event_seq, [event])
        announce(session, job)
    return jobs


def desire(
    session: Session,
    tenant_id: str,
    job_id: str,
    desired: Desired,
    *,
    keep_checkpoint: bool = False,
) -> Job | None:
    """Write down what the owner wants; a job that no worker holds obeys at once.

    None: the tenant has no such job that is still live.
    """
    idle = {
        Desired.CANCEL: JobStatus.CANCELLED,
        Desired.PAUSE: JobStatus.PAUSED,
        Desired.RUN: JobStatus.QUEUED,
    }[desired]
    status = case((Job.status == RUNNING, RUNNING.value), else_=idle.value)
    values: dict[str, Any] = {"keep_checkpoint": True} if keep_checkpoint else {}
    if desired == Desired.CANCEL:
        values["finished_at"] = case((Job.status == RUNNING, None), else_=now_ms())
        if not keep_checkpoint:
            values["checkpoint_id"] = case((Job.status == RUNNING, Job.checkpoint_id))
    job = session.scalar(
        update(Job)
        .where(
            guards.is_job(job_id),
            guards.belongs_to(tenant_id),
            guards.is_live(),
            guards.is_not_being_cancelled(),
            guards.would_change(desired, idle),
        )
        .values(
            desired=desired,
            status=status,
            event_seq=Job.event_seq + 1,
            version=Job.version + 1,
            **values,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if job is None:  # already there, or no such live job
        return session.scalar(
            select(Job).where(guards.is_job(job_id), guards.belongs_to(tenant_id), guards.is_live())
        )
    text = {Desired.CANCEL: "Cancel", Desired.PAUSE: "Pause", Desired.RUN: "Resume"}[desired]
    message = f"{text} asked for; the job is {job.status}."
    add_events(session, job.id, job.attempt, job.event_seq, [Event(f"{desired}_asked", message)])
    if job.status != RUNNING:  # or it was asked to stop, and its status has not changed yet
        announce(session, job)
    return job


def delete_job(session: Session, tenant_id: str, job_id: str) -> bool:
    """Delete a job that is not live; its events, metrics and logs go along."""
    return bool(
        session.execute(
            delete(Job).where(
                guards.is_job(job_id), guards.belongs_to(tenant_id), guards.is_finished()
            )
        ).rowcount  # type: ignore[attr-defined]
    )


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        guards.is_job(lease.job_id),
        guards.is_current_attempt(lease.attempt),
        guards.is_leased_to(lease.owner),
        guards.is_running(Job),
    )


def _waiting() -> ColumnElement[str]:
    return case((Job.desired == Desired.PAUSE, JobStatus.PAUSED.value), else_=QUEUED.value)


def _left(status: JobStatus | ColumnElement[str]) -> dict[str, Any]:
    """What every way out of ``running`` writes."""
    status = literal(status.value) if isinstance(status, JobStatus) else status
    is_over = status.in_([s.value for s in TERMINAL])
    is_dropped = and_(status == JobStatus.CANCELLED, Job.keep_checkpoint.is_(False))
    # A worker that died did not work until somebody noticed.
    stopped_at = case((Job.lease_expires_at < now_ms(), Job.lease_expires_at), else_=now_ms())
    return {
        "lease_owner": None,
        "lease_expires_at": None,
        "phase": None,
        "runtime_ms": Job.runtime_ms + stopped_at - Job.attempt_started_at,
        "finished_at": case((is_over, now_ms())),
        "checkpoint_id": case((is_dropped, None), else_=Job.checkpoint_id),
        "version": Job.version + 1,
    }
