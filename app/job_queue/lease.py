"""Leases: the right of one worker to write for one job.

A claim hands out a lease with a fencing token, the number of the attempt. Every later transaction
of that worker starts with a statement that takes the row's lock and refuses a lease that was lost,
so neither a sweep nor another claim can come between the check and the writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, update
from sqlalchemy.orm import Session

from app.core.database import now_ms
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState
from app.job_queue import guards
from app.job_queue.events import Event, add_events
from app.models import Job


class LeaseLostError(Exception):
    """The job is no longer this worker's: write nothing and kill the trainer."""


@dataclass(frozen=True)
class Lease:
    """The right to write for a job; ``attempt`` is the fencing token."""

    job_id: str
    attempt: int
    owner: str


@dataclass(frozen=True)
class WriteContext:
    """What every write of a worker needs: the database, the settings and the lease."""

    engine: Engine
    settings: Settings
    lease: Lease

    @property
    def job_id(self) -> str:
        """The job that the lease is for."""
        return self.lease.job_id

    @property
    def lease_ms(self) -> int:
        """Milliseconds for which a write renews the lease."""
        return round(self.settings.lease_seconds * 1000)


def is_held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a job is still the holder's."""
    return (
        guards.is_job(lease.job_id),
        guards.is_current_attempt(lease.attempt),
        guards.is_leased_to(lease.owner),
        guards.is_running(Job),
    )


def write_with_lease(
    session: Session, lease: Lease, lease_ms: int, events: Sequence[Event] = (), **values: Any
) -> DesiredState:
    """Renew the lease, write ``values`` and ``events``, and return the job's desired state.

    Raises:
        LeaseLostError: nothing was written; roll back.
    """
    if events or values:
        values["version"] = Job.version + 1
    row = session.execute(
        update(Job)
        .where(*is_held(lease))
        .values(
            lease_expires_at=now_ms() + lease_ms, event_seq=Job.event_seq + len(events), **values
        )
        .returning(Job.event_seq, Job.desired)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LeaseLostError(lease.job_id)
    add_events(session, lease.job_id, lease.attempt, row.event_seq, events)
    return DesiredState(row.desired)
