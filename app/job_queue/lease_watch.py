"""Find leases that are no longer renewed, by the clock of this process only.

``lease_expires_at`` is a time of the database's clock, which may step. After a step forward, the
leases of all healthy workers would seem to be expired; after a step back, the jobs of dead workers
would wait for hours. Therefore a lease counts as lost when its row has not changed for the duration
of a lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Engine, select

from app.core.database import reader
from app.core.settings import Settings
from app.domain.lifecycle import JobStatus
from app.models import Job


class SeenLease(NamedTuple):
    """A lease as a row shows it; each renewal changes ``expires_at``."""

    job_id: str
    attempt: int
    expires_at: int | None


class LeaseWatch:
    """Observes the leases; keeps its observations in memory only."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lost_after = settings.lease_seconds + settings.sweep_grace_seconds
        #: After a longer gap between two looks, the database may have been unavailable for workers
        #: too.
        self._max_gap = settings.lease_seconds / 2
        self._since: dict[SeenLease, float] = {}
        self._looked_at = clock()

    def look(self, engine: Engine) -> list[SeenLease]:
        """Look at all leases; return those that stayed the same for too long."""
        with reader(engine).connect() as connection:
            rows = connection.execute(
                select(Job.id, Job.attempt, Job.lease_expires_at).where(
                    Job.status == JobStatus.RUNNING
                )
            ).all()
        now = self._clock()
        if now - self._looked_at > self._max_gap:
            self.forget()
        self._looked_at = now
        leases = [SeenLease(*row) for row in rows]
        self._since = {lease: self._since.get(lease, now) for lease in leases}
        return [lease for lease, since in self._since.items() if now - since > self._lost_after]

    def forget(self) -> None:
        """Discard all observations, so that every worker has the duration of a lease to renew."""
        self._since.clear()
