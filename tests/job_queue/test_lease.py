"""Writes with a lease: refused once it is lost, and without gaps in the events."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select

from app.core.database import transaction
from app.domain.lifecycle import DesiredState, JobStatus
from app.job_queue.events import Event, upsert_metrics
from app.job_queue.lease import Lease, LeaseLostError, write_with_lease
from app.models import JobMetric
from tests.job_queue.factories import (
    events_of,
    read_job,
)
from tests.job_queue.statements import (
    LEASE_MS,
    end_attempt,
    expire_lease,
    make_running_job,
    run_concurrently,
    set_desired_state,
    sweep,
    write,
)


@pytest.mark.parametrize(
    "act",
    [
        lambda engine, lease: write(engine, lease, Event("x", "X"), phase="training"),
        lambda engine, lease: end_attempt(engine, lease),
    ],
    ids=["write", "end"],
)
@pytest.mark.parametrize(
    "outdated",
    [
        lambda lease: Lease(lease.job_id, lease.attempt + 1, lease.owner),
        lambda lease: Lease(lease.job_id, lease.attempt - 1, lease.owner),
        lambda lease: Lease(lease.job_id, lease.attempt, "host-b/0:1"),
        lambda lease: Lease("job_other", lease.attempt, lease.owner),
    ],
    ids=["later attempt", "earlier attempt", "other owner", "other job"],
)
def test_outdated_lease_writes_nothing(
    engine: Engine,
    outdated: Callable[[Lease], Lease],
    act: Callable[[Engine, Lease], object],
) -> None:
    lease = make_running_job(engine)
    with pytest.raises(LeaseLostError):
        act(engine, outdated(lease))
    job = read_job(engine, lease.job_id)
    assert (job.status, job.phase, job.event_seq) == ("running", None, 2)


def test_lease_of_a_finished_job_writes_nothing(engine: Engine) -> None:
    lease = make_running_job(engine)
    end_attempt(engine, lease)
    with pytest.raises(LeaseLostError):
        write(engine, lease)
    with pytest.raises(LeaseLostError):
        end_attempt(engine, lease, JobStatus.FAILED)
    assert read_job(engine, lease.job_id).status == "succeeded"


def test_lost_lease_rolls_back_the_transaction(engine: Engine) -> None:
    lease = make_running_job(engine)
    stale = Lease(lease.job_id, lease.attempt, "host-b/0:1")

    def write_late() -> None:
        with transaction(engine) as session:
            upsert_metrics(session, stale.job_id, stale.attempt, 1, {"train/loss": 1.0})
            write_with_lease(session, stale, LEASE_MS)

    with pytest.raises(LeaseLostError):
        write_late()
    with transaction(engine) as session:
        assert session.scalars(select(JobMetric)).all() == []


def test_write_renews_the_lease_and_returns_the_desired_state(engine: Engine) -> None:
    lease = make_running_job(engine)
    expire_lease(engine, lease)
    assert write(engine, lease) == DesiredState.RUN
    assert sweep(engine) == []  # the lease was renewed before a sweep
    set_desired_state(engine, lease.job_id, DesiredState.PAUSE)
    assert write(engine, lease) == DesiredState.PAUSE


def test_heartbeat_keeps_the_version_and_progress_changes_it(engine: Engine) -> None:
    lease = make_running_job(engine)
    version = read_job(engine, lease.job_id).version
    write(engine, lease)
    assert read_job(engine, lease.job_id).version == version
    write(engine, lease, phase="training")
    assert read_job(engine, lease.job_id).version == version + 1


def test_concurrent_writers_leave_no_gap_in_the_events(engine: Engine) -> None:
    lease = make_running_job(engine)

    def work(number: int) -> None:
        for _ in range(5):
            if number:
                write(engine, lease, Event("a", "A"), Event("b", "B"))
            else:
                set_desired_state(engine, lease.job_id, DesiredState.PAUSE)
                set_desired_state(engine, lease.job_id, DesiredState.RUN)

    run_concurrently(4, work)
    end_attempt(engine, lease)
    events = events_of(engine, lease.job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(events) == read_job(engine, lease.job_id).event_seq == 3 + 3 * 5 * 2 + 10


def test_metrics_of_a_repeated_step_are_replaced_but_not_by_an_older_attempt(
    engine: Engine,
) -> None:
    first = make_running_job(engine)
    with transaction(engine) as session:
        upsert_metrics(
            session, first.job_id, first.attempt, 1, {"train/loss": 1.0, "train/margin": 0.1}
        )
    second = Lease(first.job_id, 2, "host-a/0:2")
    with transaction(engine) as session:
        upsert_metrics(session, second.job_id, second.attempt, 1, {"train/loss": 2.0})
        upsert_metrics(session, first.job_id, first.attempt, 1, {"train/loss": 3.0})
        upsert_metrics(session, second.job_id, second.attempt, 2, {})
    with transaction(engine) as session:
        rows = session.execute(select(JobMetric.step, JobMetric.name, JobMetric.value)).all()
    assert sorted(tuple(row) for row in rows) == [(1, "train/loss", 2.0), (1, "train/margin", 0.1)]
