"""How a worker gets a job: one statement that picks the best waiting one and hands out a lease."""

from __future__ import annotations

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session, aliased

from app.core.database import not_by_index, now_ms
from app.domain.lifecycle import JobStatus
from app.job_queue import guards
from app.job_queue.events import Event, add_events, enqueue_status_webhook
from app.models import Job, Worker

#: Of the advisory lock that makes claims take turns on PostgreSQL; SQLite has one writer anyway.
CLAIM_LOCK = 0x706C6175


def claim_next_job(
    session: Session, queue: str, owner: str, host: str, lease_ms: int, quota_running: int
) -> Job | None:
    """Take the best waiting job of a queue; at most one caller gets it.

    A tenant that runs ``quota_running`` jobs gets no further one; inspections do not count.
    """
    candidate, running = aliased(Job), aliased(Job)
    tenant = not_by_index(running.tenant_id)
    at_quota = (
        select(tenant)
        .where(guards.is_running(running), guards.counts_against_quota(running))
        .group_by(tenant)
        .having(func.count() >= quota_running)
    )
    other_host = (
        exists()
        .select_from(Worker)
        .where(
            guards.serves_queue(queue),
            guards.is_on_another_host(host),
            guards.is_ready(),
            guards.was_seen_recently(),
        )
    )
    if session.get_bind().dialect.name == "postgresql":
        # Two claims at once would both count before either is seen, and exceed the quota.
        session.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
    best = (
        select(candidate.id)
        .where(
            guards.is_queued(candidate),
            guards.is_wanted(candidate),
            guards.is_in_queue(candidate, queue),
            guards.is_due(candidate),
            guards.may_run_on(candidate, host, other_host),
            guards.is_within_quota(candidate, at_quota),
        )
        .order_by(candidate.priority.desc(), candidate.created_at, candidate.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=candidate)
        .scalar_subquery()
    )
    job = session.scalar(
        update(Job)
        .where(guards.is_best_candidate(best), guards.is_queued(Job))
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_expires_at=now_ms() + lease_ms,
            started_at=func.coalesce(Job.started_at, now_ms()),
            attempt_started_at=now_ms(),
            progressed_at=now_ms(),
            phase=None,
            rate_step=None,
            rate_at=None,
            event_seq=Job.event_seq + 1,
            version=Job.version + 1,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if job is not None:
        add_events(
            session,
            job.id,
            job.attempt,
            job.event_seq,
            [Event("claimed", f"Attempt {job.attempt} starts on {host}.", {"worker": owner})],
        )
        enqueue_status_webhook(session, job)
    return job
