"""Lost leases are found by a single clock, even if the database's clock steps."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from app.core.database import now_ms
from app.core.settings import Settings
from app.job_queue import worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.lease_watch import LeaseWatch, SeenLease
from tests.job_queue.factories import update_job

#: Seconds between two looks.
ROUND = 2.0


class Watched:
    """A watch whose clock moves with each look."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.now = 1000.0
        self.engine = engine
        self.watch = LeaseWatch(settings, lambda: self.now)

    def after(self, seconds: float, step: float = ROUND) -> list[SeenLease]:
        """Look every ``step`` seconds; return what the last look found."""
        end = self.now + seconds
        found: list[SeenLease] = []
        while self.now < end:
            self.now = min(self.now + step, end)
            found = self.watch.look(self.engine)
        return found


@pytest.fixture
def watched(engine: Engine, settings: Settings) -> Watched:
    return Watched(engine, settings)


@pytest.fixture
def lost_after(settings: Settings) -> float:
    return settings.lease_seconds + settings.sweep_grace_seconds


@pytest.mark.parametrize("hours", [-2, 0, 2])
def test_lease_is_lost_when_nobody_renewed_it_for_as_long_as_it_lasts(
    watched: Watched, context: WriteContext, lost_after: float, hours: int
) -> None:
    step_ms = hours * 3_600_000
    # After the step the row looks as if it had been renewed then.
    update_job(watched.engine, context.job_id, lease_expires_at=now_ms() - step_ms)
    assert watched.after(lost_after) == []
    assert [lease.job_id for lease in watched.after(2 * ROUND)] == [context.job_id]


def test_renewed_lease_is_not_lost(
    watched: Watched, context: WriteContext, lost_after: float
) -> None:
    watched.after(lost_after)
    worker_api.heartbeat(context)
    assert watched.after(lost_after) == []
    assert len(watched.after(2 * ROUND)) == 1


@pytest.mark.parametrize("outage", ["error", "hang"])
def test_workers_have_the_time_of_a_lease_after_an_outage(
    watched: Watched, context: WriteContext, lost_after: float, outage: str
) -> None:
    watched.after(lost_after)
    if outage == "error":
        watched.watch.forget()
    else:  # the database answered after half of a lease
        watched.now += lost_after / 2
    assert watched.after(lost_after) == []
    assert len(watched.after(2 * ROUND)) == 1
