"""Calls of the guarded statements, each in a transaction of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Engine

from app.core.database import now_ms, transaction
from app.domain.lifecycle import DesiredState, JobStatus
from app.job_queue import transitions
from app.job_queue.claim import ClaimTerms, claim_next_job
from app.job_queue.events import Event
from app.job_queue.lease import Lease, write_with_lease
from app.models import Job, Worker
from tests.job_queue.factories import QUEUE, TENANT, expired_leases, queue_job, update_job

LEASE_MS = 60_000
LONGEST_DELAY_MS = 900_000


def claim_job(engine: Engine, owner: str = "host-a/0:1", **more: Any) -> Lease | None:
    """Claim the best job; None when there is none."""
    terms = {"lease_ms": LEASE_MS, "quota_running": 100, "longest_delay_ms": LONGEST_DELAY_MS}
    names = {*terms, "has_gpu"} & more.keys()
    given = {name: more.pop(name) for name in names}
    arguments = {"queue": QUEUE, "host": "host", **more}
    with transaction(engine) as session:
        job = claim_next_job(session, owner=owner, terms=ClaimTerms(**terms | given), **arguments)
    return job and Lease(job.id, job.attempt, owner)


def make_running_job(engine: Engine, **fields: Any) -> Lease:
    """Insert and claim a job; return the lease on it."""
    queue_job(engine, **fields)
    lease = claim_job(engine)
    assert lease is not None
    return lease


def write(engine: Engine, lease: Lease, *events: Event, **values: Any) -> DesiredState:
    """Write events and columns with a lease."""
    with transaction(engine) as session:
        return write_with_lease(session, lease, LEASE_MS, events, **values)


def end_attempt(
    engine: Engine, lease: Lease, status: Any = JobStatus.SUCCEEDED, **values: Any
) -> str:
    """End an attempt; return the job's status."""
    with transaction(engine) as session:
        return transitions.transition(
            session, lease, status, [Event("end", "End.")], **values
        ).status


def sweep(engine: Engine, **more: Any) -> list[Job]:
    """Take back jobs whose lease has expired."""
    lost = expired_leases(engine)
    arguments = {"lost": lost, "backoff_ms": 0, "max_crashes": 3, "max_stalls": 3, **more}
    with transaction(engine) as session:
        return transitions.sweep(session, **arguments)


def set_desired_state(
    engine: Engine, job_id: str, desired: DesiredState, **more: Any
) -> Job | None:
    """Request a state as tenant ``TENANT``."""
    with transaction(engine) as session:
        return transitions.set_desired_state(session, TENANT, job_id, desired, **more)


def expire_lease(engine: Engine, lease: Lease) -> None:
    """Set the end of the lease to a second ago."""
    update_job(engine, lease.job_id, lease_expires_at=now_ms() - 1000)


def make_worker(engine: Engine, host: str, **fields: Any) -> None:
    """Register a worker on a host."""
    with transaction(engine) as session:
        session.add(Worker(**{"id": host, "host": host, "queue": QUEUE, "slots": 1, **fields}))


def run_concurrently(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Call ``act`` in threads that start together; return the results."""
    gate = threading.Barrier(count)

    def run(number: int) -> Any:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
