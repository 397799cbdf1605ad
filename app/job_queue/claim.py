"""How a worker gets a job: one statement that picks the best waiting one and hands out a lease."""

from __future__ import annotations

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.core.database import not_by_index, now_ms
from app.domain.lifecycle import Desired, JobKind, JobStatus
from app.job_queue.events import Event, add_events, announce
from app.job_queue.workers import WORKER_GONE_MS
from app.models import Job, Worker

#: After this long a job goes to the host it wanted to avoid rather than wait on.
AVOID_HOST_MS = 600_000
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
        .where(running.status == JobStatus.RUNNING, running.kind != JobKind.PREFLIGHT)
        .group_by(tenant)
        .having(func.count() >= quota_running)
    )
    other_host = exists().where(
        Worker.queue == queue,
        Worker.host != host,
        Worker.state == "ready",
        Worker.seen_at > now_ms() - WORKER_GONE_MS,
    )
    if session.get_bind().dialect.name == "postgresql":
        # Two claims at once would both count before either is seen, and exceed the quota.
        session.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
    best = (
        select(candidate.id)
        .where(
            candidate.status == JobStatus.QUEUED,
            candidate.desired == Desired.RUN,
            candidate.queue == queue,
            candidate.run_after <= now_ms(),
            or_(
                candidate.avoid_host.is_(None),
                candidate.avoid_host != host,
                candidate.run_after < now_ms() - AVOID_HOST_MS,
                ~other_host,
            ),
            or_(
                candidate.kind == JobKind.PREFLIGHT,
                candidate.tenant_id.not_in(at_quota),
            ),
        )
        .order_by(candidate.priority.desc(), candidate.created_at, candidate.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=candidate)
        .scalar_subquery()
    )
    job = session.scalar(
        update(Job)
        .where(Job.id == best, Job.status == JobStatus.QUEUED)
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
        announce(session, job)
    return job
