"""Status changes: where each attempt ends, sweeps, and requests of owners."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from app.core.database import now_ms, transaction
from app.domain.lifecycle import TRANSITIONS, DesiredState, JobStatus
from app.job_queue import transitions
from app.job_queue.lease import LeaseLostError
from app.job_queue.transitions import DuplicateKeyError
from app.models import Job, JobEvent
from tests.job_queue.factories import (
    TENANT,
    events_of,
    expired_leases,
    make_job,
    queue_job,
    read_job,
    update_job,
)
from tests.job_queue.statements import (
    claim_job,
    end_attempt,
    expire_lease,
    make_running_job,
    run_concurrently,
    set_desired_state,
    sweep,
    write,
)


@pytest.mark.parametrize(
    ("desired", "is_retryable", "failures", "stalls", "status"),
    [
        ("run", True, 0, 0, "queued"),
        ("run", True, 2, 0, "failed"),
        ("run", True, 0, 2, "failed"),
        ("run", False, 0, 0, "failed"),
        ("pause", True, 0, 0, "paused"),
        ("pause", False, 0, 0, "failed"),
        ("cancel", True, 0, 0, "cancelled"),
        ("cancel", False, 2, 2, "cancelled"),
    ],
)
def test_status_after_a_failure(
    engine: Engine, desired: str, is_retryable: bool, failures: int, stalls: int, status: str
) -> None:
    lease = make_running_job(engine)
    update_job(engine, lease.job_id, desired=desired, failures=failures, stalls=stalls)
    after = transitions.status_after_failure(
        is_retryable=is_retryable, max_failures=3, max_stalls=3
    )
    assert end_attempt(engine, lease, after) == status
    job = read_job(engine, lease.job_id)
    assert (job.lease_owner, job.lease_expires_at) == (None, None)
    assert (job.finished_at is not None) == (status in ("failed", "cancelled"))


@pytest.mark.parametrize(
    ("desired", "status"), [("run", "queued"), ("pause", "paused"), ("cancel", "cancelled")]
)
def test_status_after_a_release(engine: Engine, desired: str, status: str) -> None:
    lease = make_running_job(engine)
    update_job(engine, lease.job_id, desired=desired, failures=2, crashes=2, stalls=2)
    assert end_attempt(engine, lease, transitions.status_after_release()) == status
    job = read_job(engine, lease.job_id)
    assert (job.failures, job.crashes, job.stalls) == (2, 2, 2)  # never charged


def test_running_job_can_reach_every_other_status() -> None:
    ways = {
        *("queued", "paused", "succeeded", "failed", "cancelled"),
    }
    assert ways == TRANSITIONS[JobStatus.RUNNING]


def test_runtime_counts_up_to_the_end_of_the_lease(engine: Engine) -> None:
    lease = make_running_job(engine)
    update_job(engine, lease.job_id, attempt_started_at=now_ms() - 5_000, runtime_ms=1_000)
    end_attempt(engine, lease, transitions.status_after_release(), run_after=now_ms())
    assert 6_000 <= read_job(engine, lease.job_id).runtime_ms < 36_000
    lease = claim_job(engine)
    assert lease is not None
    update_job(
        engine,
        lease.job_id,
        runtime_ms=0,
        attempt_started_at=now_ms() - 3_600_000,
        lease_expires_at=now_ms() - 3_590_000,
    )
    sweep(engine)  # the worker died an hour ago
    assert read_job(engine, lease.job_id).runtime_ms < 60_000


def test_sweep_leaves_a_lease_that_was_renewed_since_it_was_seen(engine: Engine) -> None:
    lease = make_running_job(engine)
    assert sweep(engine, lost=[]) == []
    expire_lease(engine, lease)
    seen = expired_leases(engine)
    write(engine, lease)
    assert sweep(engine, lost=seen) == []
    expire_lease(engine, lease)
    assert [job.id for job in sweep(engine)] == [lease.job_id]
    job = read_job(engine, lease.job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 1, None)
    with pytest.raises(LeaseLostError):
        write(engine, lease)


def test_concurrent_sweeps_take_a_job_once(engine: Engine) -> None:
    lease = make_running_job(engine)
    expire_lease(engine, lease)
    assert sum(len(jobs) for jobs in run_concurrently(6, lambda _: sweep(engine))) == 1
    assert read_job(engine, lease.job_id).crashes == 1
    assert [e.type for e in events_of(engine, lease.job_id)] == ["queued", "claimed", "worker_lost"]


@pytest.mark.parametrize(
    ("desired", "crashes", "stalls", "status", "code"),
    [
        ("run", 0, 0, "queued", None),
        ("run", 2, 0, "failed", "poison"),
        ("run", 0, 2, "failed", "no_progress"),
        ("run", 2, 2, "failed", "poison"),
        ("pause", 0, 0, "paused", None),
        ("pause", 2, 0, "failed", "poison"),
        ("cancel", 2, 2, "cancelled", None),
    ],
)
def test_status_after_a_sweep(
    engine: Engine, desired: str, crashes: int, stalls: int, status: str, code: str | None
) -> None:
    lease = make_running_job(engine)
    update_job(engine, lease.job_id, desired=desired, crashes=crashes, stalls=stalls)
    expire_lease(engine, lease)
    sweep(engine)
    job = read_job(engine, lease.job_id)
    assert (job.status, job.failure_code if status == "failed" else None) == (status, code)
    assert (job.finished_at is not None) == (status in ("failed", "cancelled"))


def test_sweep_of_a_slot_takes_its_jobs_only(engine: Engine) -> None:
    queue_job(engine)
    queue_job(engine)
    queue_job(engine)
    mine, sibling = claim_job(engine, "host_a-12/1:x"), claim_job(engine, "host_a-12/10:x")
    lookalike = claim_job(engine, "hostXa-12/1:x")
    assert mine
    assert sibling
    assert lookalike
    swept = sweep(engine, owner_prefix="host_a-12/1:")
    assert [job.id for job in swept] == [mine.job_id]
    assert read_job(engine, sibling.job_id).status == "running"
    assert read_job(engine, lookalike.job_id).status == "running"


@pytest.mark.parametrize(
    ("desired", "status"), [(DesiredState.CANCEL, "cancelled"), (DesiredState.PAUSE, "paused")]
)
def test_waiting_job_changes_at_once_and_repeating_changes_nothing(
    engine: Engine, desired: DesiredState, status: str
) -> None:
    job_id = queue_job(engine)
    first = set_desired_state(engine, job_id, desired)
    assert first is not None
    assert first.status == status
    assert (first.finished_at is not None) == (status == "cancelled")
    set_desired_state(engine, job_id, desired)
    assert read_job(engine, job_id).version == first.version
    assert len(events_of(engine, job_id)) == 2


def test_running_job_keeps_its_status(engine: Engine) -> None:
    lease = make_running_job(engine)
    for desired in (DesiredState.PAUSE, DesiredState.RUN, DesiredState.PAUSE, DesiredState.CANCEL):
        job = set_desired_state(engine, lease.job_id, desired)
        assert job is not None
        assert (job.status, job.desired, job.finished_at) == ("running", desired, None)
        version = job.version
        set_desired_state(engine, lease.job_id, desired)
        assert read_job(engine, lease.job_id).version == version


def test_resumed_job_is_queued(engine: Engine) -> None:
    job_id = queue_job(engine)
    set_desired_state(engine, job_id, DesiredState.PAUSE)
    resumed = set_desired_state(engine, job_id, DesiredState.RUN)
    assert resumed is not None
    assert (resumed.status, resumed.desired) == ("queued", "run")
    assert claim_job(engine) is not None


@pytest.mark.parametrize("later", [DesiredState.PAUSE, DesiredState.RUN])
def test_cancel_is_final(engine: Engine, later: DesiredState) -> None:
    lease = make_running_job(engine)
    set_desired_state(engine, lease.job_id, DesiredState.CANCEL)
    job = set_desired_state(engine, lease.job_id, later)
    assert job is not None
    assert job.desired == DesiredState.CANCEL
    assert end_attempt(engine, lease, transitions.status_after_release()) == "cancelled"
    assert set_desired_state(engine, lease.job_id, later) is None
    assert read_job(engine, lease.job_id).status == "cancelled"


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("desired", list(DesiredState))
def test_finished_job_never_changes(engine: Engine, status: str, desired: DesiredState) -> None:
    lease = make_running_job(engine)
    end_attempt(engine, lease, JobStatus(status))
    version = read_job(engine, lease.job_id).version
    assert set_desired_state(engine, lease.job_id, desired) is None
    assert sweep(engine) == []
    job = read_job(engine, lease.job_id)
    assert (job.status, job.version) == (status, version)


def test_jobs_of_other_tenants_do_not_change(engine: Engine) -> None:
    job_id = queue_job(engine, tenant_id="other")
    assert set_desired_state(engine, job_id, DesiredState.CANCEL) is None
    with transaction(engine) as session:
        assert not transitions.delete_job(session, TENANT, job_id)
    assert read_job(engine, job_id).status == "queued"


@pytest.mark.parametrize("keep", [True, False])
def test_cancelled_job_drops_its_checkpoint_unless_it_should_keep_it(
    engine: Engine, keep: bool
) -> None:
    waiting = queue_job(engine, checkpoint_id="ckpt_1")
    set_desired_state(engine, waiting, DesiredState.CANCEL, keep_checkpoint=keep)
    lease = make_running_job(engine, checkpoint_id="ckpt_2")
    set_desired_state(engine, lease.job_id, DesiredState.CANCEL, keep_checkpoint=keep)
    assert read_job(engine, lease.job_id).checkpoint_id == "ckpt_2"
    end_attempt(engine, lease, transitions.status_after_release())
    kept = [read_job(engine, job_id).checkpoint_id for job_id in (waiting, lease.job_id)]
    assert kept == (["ckpt_1", "ckpt_2"] if keep else [None, None])


def test_only_finished_jobs_are_deleted_and_their_events_with_them(engine: Engine) -> None:
    lease = make_running_job(engine)
    with transaction(engine) as session:
        assert not transitions.delete_job(session, TENANT, lease.job_id)
    end_attempt(engine, lease)
    with transaction(engine) as session:
        assert transitions.delete_job(session, TENANT, lease.job_id)
        assert session.scalars(select(JobEvent)).all() == []


def test_concurrent_submissions_with_one_key_create_one_job(engine: Engine) -> None:
    def submit(_: int) -> bool:
        try:
            queue_job(engine, idempotency_key="same")
        except DuplicateKeyError:
            return False
        return True

    assert sum(run_concurrently(6, submit)) == 1
    queue_job(engine, idempotency_key="same", tenant_id="other")
    queue_job(engine)
    queue_job(engine)


def test_session_is_usable_after_a_duplicate_key(engine: Engine) -> None:
    queue_job(engine, idempotency_key="same")
    with transaction(engine) as session:
        with pytest.raises(DuplicateKeyError):
            make_job(session, idempotency_key="same")
        assert session.scalars(select(Job.idempotency_key)).all() == ["same"]
