"""The claim: one statement that picks the best waiting job of a queue and leases it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Exists, ScalarSelect, Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.core.database import not_by_index, now_ms
from app.core.leased_queue import lock_picked, update_returning
from app.domain.lifecycle import JobStatus
from app.job_queue import guards
from app.job_queue.events import Event, add_events, enqueue_status_webhook
from app.models import Job, Worker

#: Advisory lock that serialises claims on PostgreSQL; SQLite has one writer at a time.
CLAIM_LOCK = 0x706C6175
#: Made once: SQLAlchemy adapts the columns of a new alias when they are first used, which takes
#: longer than the claim, and an idle worker claims several times a second.
_CANDIDATE, _RUNNING = aliased(Job), aliased(Job)


@dataclass(frozen=True)
class ClaimTerms:
    """How a job is claimed.

    A tenant with ``quota_running`` running jobs can start only jobs of kinds that do not count
    against the quota. After a failed attempt, a job waits at most ``longest_delay_ms``.
    """

    lease_ms: int
    quota_running: int
    longest_delay_ms: int
    #: For inspections: at most one per base model runs at a time, and tenants without a running one
    #: go first. Therefore neither a base model that hangs nor a tenant with many inspections
    #: occupies all slots.
    takes_turns: bool = False
    #: Whether the slot that claims has a GPU.
    has_gpu: bool = False


def claim_next_job(
    session: Session, queue: str, owner: str, host: str, terms: ClaimTerms
) -> Job | None:
    """Lease the best waiting job of a queue to ``owner``; no other caller gets it.

    The order is by priority, then by age.
    """
    if session.get_bind().dialect.name == "postgresql":
        # Two concurrent claims would each miss the other's job in the count of running jobs.
        session.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
    best = _best_candidate(queue, host, terms)
    claimed = update_returning(
        session,
        Job,
        (guards.is_best_candidate(best), guards.is_queued(Job)),
        status=JobStatus.RUNNING,
        attempt=Job.attempt + 1,
        lease_owner=owner,
        lease_expires_at=now_ms() + terms.lease_ms,
        started_at=func.coalesce(Job.started_at, now_ms()),
        attempt_started_at=now_ms(),
        progressed_at=now_ms(),
        phase=None,
        rows=None,
        rate_step=None,
        rate_at=None,
        event_seq=Job.event_seq + 1,
        version=Job.version + 1,
    )
    if not claimed:
        return None
    (job,) = claimed
    event = Event("claimed", f"Attempt {job.attempt} starts on {host}.", {"worker": owner})
    add_events(session, job.id, job.attempt, job.event_seq, [event])
    enqueue_status_webhook(session, job)
    return job


def _best_candidate(queue: str, host: str, terms: ClaimTerms) -> ScalarSelect[str]:
    """Pick the id of the job to claim.

    A scalar subquery: PostgreSQL evaluates it once, where it may evaluate ``IN (… LIMIT 1)`` once
    per row and claim several jobs.
    """
    candidate = _CANDIDATE
    order: list[ColumnElement[Any]] = [
        candidate.priority.desc(), candidate.created_at.asc(), candidate.id.asc()
    ]  # fmt: skip
    query = select(candidate.id).where(
        guards.is_queued(candidate),
        guards.is_wanted(candidate),
        guards.is_in_queue(candidate, queue),
        guards.is_due(candidate, terms.longest_delay_ms),
        guards.may_run_on(candidate, host, _other_host(queue, host)),
        guards.can_run_on_device(candidate, has_gpu=terms.has_gpu),
        guards.is_within_quota(candidate, _tenants_at_quota(terms.quota_running)),
    )
    if terms.takes_turns:
        running = _running_in(queue)
        query = query.where(guards.has_another_model(candidate, running))
        order.insert(0, candidate.tenant_id.in_(running.with_only_columns(_RUNNING.tenant_id)))
    return lock_picked(query.order_by(*order).limit(1)).scalar_subquery()


def _running_in(queue: str) -> Select[str]:
    """Select the base models of the queue's running jobs."""
    return select(_RUNNING.base_model).where(
        guards.is_running(_RUNNING), guards.is_in_queue(_RUNNING, queue)
    )


def _tenants_at_quota(quota_running: int) -> Select[str]:
    tenant = not_by_index(_RUNNING.tenant_id)
    return (
        select(tenant)
        .where(guards.is_running(_RUNNING), guards.counts_against_quota(_RUNNING))
        .group_by(tenant)
        .having(func.count() >= quota_running)
    )


def _other_host(queue: str, host: str) -> Exists:
    return (
        exists()
        .select_from(Worker)
        .where(
            guards.serves_queue(queue),
            guards.is_on_another_host(host),
            guards.is_ready(),
            guards.was_seen_recently(),
        )
    )
