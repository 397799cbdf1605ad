"""Guards: the named conditions of the statements that change a job's status.

Each function is one term of a WHERE clause. ``tests/job_queue/test_state_machine.py`` replaces them
one at a time, for each statement, by a condition that always holds, and expects its model to
notice.
Statements therefore call them as ``guards.name(…)`` and use no other conditions.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Exists, ScalarSelect, Select, literal, not_, or_, tuple_

from app.core.database import now_ms
from app.domain.lifecycle import LIVE, TERMINAL, DesiredState, JobStatus
from app.job_queue import kinds
from app.job_queue.lease_watch import SeenLease
from app.job_queue.workers import WorkerState, is_alive
from app.models import Job, Worker

#: Milliseconds after which a job is given to the host it should avoid rather than wait longer.
AVOID_HOST_MS = 600_000

Condition = ColumnElement[bool]
Row = type[Job]

# -- which job a worker may claim --------------------------------------------------------------


def is_queued(job: Row) -> Condition:
    return job.status == JobStatus.QUEUED


def is_wanted(job: Row) -> Condition:
    return job.desired == DesiredState.RUN


def is_in_queue(job: Row, queue: str) -> Condition:
    return job.queue == queue


def is_due(job: Row, longest_delay_ms: int) -> Condition:
    """Whether the delay after the job's last attempt is over.

    A job without an attempt, or with a delay above the maximum, is due as well: its time is wrong
    because the database's clock stepped back.
    """
    return or_(
        job.run_after <= now_ms(), job.attempt == 0, job.run_after > now_ms() + longest_delay_ms
    )


def may_run_on(job: Row, host: str, has_other_host: Exists) -> Condition:
    """Whether this host may run the job.

    A job avoids the host on which it failed, for a limited time, while another host can take it.
    """
    return or_(
        job.avoid_host.is_(None),
        job.avoid_host != host,
        not_(job.run_after.between(now_ms() - AVOID_HOST_MS, now_ms() + AVOID_HOST_MS)),
        ~has_other_host,
    )


def can_run_on_device(job: Row, *, has_gpu: bool) -> Condition:
    return or_(literal(has_gpu), not_(job.needs_gpu))


def is_within_quota(job: Row, tenants_at_quota: Select[str]) -> Condition:
    return or_(kinds.is_free_of_quota(job.kind), job.tenant_id.not_in(tenants_at_quota))


def has_another_model(job: Row, models: Select[str]) -> Condition:
    return job.base_model.not_in(models)


def is_running(job: Row) -> Condition:
    return job.status == JobStatus.RUNNING


def counts_against_quota(job: Row) -> Condition:
    return not_(kinds.is_free_of_quota(job.kind))


def is_best_candidate(best: ScalarSelect[str]) -> Condition:
    return Job.id == best


# -- which workers could take a job instead ----------------------------------------------------


def serves_queue(queue: str) -> Condition:
    return Worker.queue == queue


def is_on_another_host(host: str) -> Condition:
    return Worker.host != host


def is_ready() -> Condition:
    return Worker.state == WorkerState.READY


def was_seen_recently() -> Condition:
    return is_alive()


# -- who may write for a running job -----------------------------------------------------------


def is_current_attempt(attempt: int) -> Condition:
    return Job.attempt == attempt


def is_leased_to(owner: str) -> Condition:
    return Job.lease_owner == owner


# -- which jobs lost their worker --------------------------------------------------------------


def is_lease_unchanged(seen: Sequence[SeenLease]) -> Condition:
    return tuple_(Job.id, Job.attempt, Job.lease_expires_at).in_(seen)


def is_lease_of_slot(owner_prefix: str) -> Condition:
    return Job.lease_owner.startswith(owner_prefix, autoescape=True)


def is_picked(ids: Select[str]) -> Condition:
    return Job.id.in_(ids)


# -- which job a request is about, and whether it may change -----------------------------------


def is_job(job_id: str) -> Condition:
    return Job.id == job_id


def belongs_to(tenant_id: str) -> Condition:
    return Job.tenant_id == tenant_id


def is_live() -> Condition:
    return Job.status.in_(LIVE)


def is_finished() -> Condition:
    return Job.status.in_(TERMINAL)


def is_not_being_cancelled() -> Condition:
    """A cancel is final: a later pause or resume does not revert it."""
    return Job.desired != DesiredState.CANCEL


def would_change(desired: DesiredState, idle_status: JobStatus) -> Condition:
    """A request for the current state changes nothing, not even the version."""
    return or_(Job.desired != desired, ~Job.status.in_((JobStatus.RUNNING, idle_status)))
