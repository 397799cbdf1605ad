"""The guarded statements, on both databases: one winner, no stale write, no gap."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from app.core.database import now_ms, transaction
from app.domain.lifecycle import TRANSITIONS, DesiredState, JobStatus
from app.job_queue import kinds, transitions
from app.job_queue.claim import claim_next_job
from app.job_queue.events import Event, upsert_metrics
from app.job_queue.guards import AVOID_HOST_MS
from app.job_queue.lease import Lease, LeaseLostError, write_with_lease
from app.job_queue.transitions import DuplicateKeyError
from app.models import Job, JobEvent, JobMetric, Worker
from tests.job_queue.making import QUEUE, TENANT, events_of, look, make_job, queue_job

LEASE_MS = 60_000


def claim(engine: Engine, owner: str = "host-a/0:1", **more: Any) -> Lease | None:
    arguments = {"queue": QUEUE, "host": "host", "lease_ms": LEASE_MS, "quota_running": 100, **more}
    with transaction(engine) as session:
        job = claim_next_job(session, owner=owner, **arguments)
    return job and Lease(job.id, job.attempt, owner)


def held(engine: Engine, **fields: Any) -> Lease:
    """The lease on a fresh job."""
    queue_job(engine, **fields)
    lease = claim(engine)
    assert lease is not None
    return lease


def fence(engine: Engine, lease: Lease, *events: Event, **values: Any) -> DesiredState:
    with transaction(engine) as session:
        return write_with_lease(session, lease, LEASE_MS, events, **values)


def leave(engine: Engine, lease: Lease, status: Any = JobStatus.SUCCEEDED, **values: Any) -> str:
    with transaction(engine) as session:
        return transitions.transition(
            session, lease, status, [Event("end", "End.")], **values
        ).status


def sweep(engine: Engine, **more: Any) -> list[Job]:
    arguments = {"grace_ms": 0, "backoff_ms": 0, "max_crashes": 3, "max_stalls": 3, **more}
    with transaction(engine) as session:
        return transitions.sweep(session, **arguments)


def desire(engine: Engine, job_id: str, desired: DesiredState, **more: Any) -> Job | None:
    with transaction(engine) as session:
        return transitions.set_desired_state(session, TENANT, job_id, desired, **more)


def change(engine: Engine, job_id: str, **values: Any) -> None:
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def expire(engine: Engine, lease: Lease) -> None:
    change(engine, lease.job_id, lease_expires_at=now_ms() - 1000)


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Let threads start together."""
    gate = threading.Barrier(count)

    def run(number: int) -> Any:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- claim -----------------------------------------------------------------------------------


def test_claim_has_one_winner(engine: Engine) -> None:
    job_id = queue_job(engine)
    won = [lease for lease in at_once(8, lambda i: claim(engine, f"host-a/0:{i}")) if lease]
    assert [(lease.job_id, lease.attempt) for lease in won] == [(job_id, 1)]
    job = look(engine, job_id)
    assert (job.status, job.lease_owner, job.attempt) == ("running", won[0].owner, 1)


def test_every_job_is_claimed_once_by_threads_that_race(engine: Engine) -> None:
    ids = {queue_job(engine) for _ in range(20)}

    def work(number: int) -> list[str]:
        got = []
        while lease := claim(engine, f"host-a/{number}:1"):
            got.append(lease.job_id)
        return got

    assert Counter(i for got in at_once(4, work) for i in got) == Counter(ids)


def test_claim_takes_the_highest_priority_and_then_the_oldest(engine: Engine) -> None:
    first, second = queue_job(engine), queue_job(engine)
    urgent = queue_job(engine, priority=5)
    order = [lease.job_id for lease in (claim(engine), claim(engine), claim(engine)) if lease]
    assert order == [urgent, first, second]
    assert claim(engine) is None


def test_claim_leaves_what_is_not_due_or_elsewhere_or_not_wanted(engine: Engine) -> None:
    queue_job(engine, run_after=now_ms() + 60_000)
    queue_job(engine, queue="another")
    paused = queue_job(engine)
    desire(engine, paused, DesiredState.PAUSE)
    assert claim(engine) is None


def test_claim_starts_the_clock_and_keeps_the_first_start(engine: Engine) -> None:
    lease = held(engine)
    first = look(engine, lease.job_id)
    assert first.started_at == first.attempt_started_at
    leave(engine, lease, transitions.status_after_release(), run_after=now_ms())
    change(engine, lease.job_id, started_at=1000)
    claim(engine)
    second = look(engine, lease.job_id)
    assert second.started_at == 1000
    assert second.attempt_started_at is not None
    assert second.attempt_started_at > 1000
    assert second.attempt == 2


def test_quota_of_a_tenant_holds_against_claims_that_race(engine: Engine) -> None:
    for _ in range(6):
        queue_job(engine)
    other = queue_job(engine, tenant_id="other")
    won = at_once(6, lambda i: claim(engine, f"host-a/{i}:1", quota_running=2))
    tenants = Counter(look(engine, lease.job_id).tenant_id for lease in won if lease)
    assert tenants == {TENANT: 2, "other": 1}
    assert look(engine, other).status == "running"


def test_inspection_is_claimed_by_a_tenant_at_its_quota_and_does_not_use_it_up(
    engine: Engine,
) -> None:
    held(engine)
    inspection = queue_job(engine, kind=kinds.INSPECT.name)
    queue_job(engine)
    assert claim(engine, quota_running=2) is not None
    assert look(engine, inspection).status == "running"
    assert claim(engine, quota_running=2) is not None
    assert claim(engine, quota_running=2) is None


def make_worker(engine: Engine, host: str, **fields: Any) -> None:
    with transaction(engine) as session:
        session.add(Worker(**{"id": host, "host": host, "queue": QUEUE, "slots": 1, **fields}))


def test_host_to_avoid_waits_while_another_lives(engine: Engine) -> None:
    job_id = queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    make_worker(engine, "good")
    assert claim(engine, host="bad") is None
    change(engine, job_id, run_after=now_ms() - AVOID_HOST_MS - 1000)
    assert claim(engine, host="bad") is not None


@pytest.mark.parametrize(
    "other",
    [{}, {"state": "draining"}, {"state": "unhealthy"}, {"seen_at": 1000}, {"queue": "another"}],
)
def test_host_to_avoid_takes_the_job_when_no_other_can(
    engine: Engine, other: dict[str, Any]
) -> None:
    queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    if other:
        make_worker(engine, "gone", **other)
    assert claim(engine, host="bad") is not None


def test_another_host_takes_the_job_at_once(engine: Engine) -> None:
    queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    assert claim(engine, host="good") is not None


# -- fence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stale",
    [
        lambda lease: Lease(lease.job_id, lease.attempt + 1, lease.owner),
        lambda lease: Lease(lease.job_id, lease.attempt - 1, lease.owner),
        lambda lease: Lease(lease.job_id, lease.attempt, "host-b/0:1"),
        lambda lease: Lease("job_other", lease.attempt, lease.owner),
    ],
    ids=["attempt-to-come", "attempt-before", "another-owner", "another-job"],
)
def test_lease_that_is_not_the_present_one_writes_nothing(
    engine: Engine, stale: Callable[[Lease], Lease]
) -> None:
    lease = held(engine)
    for write in (
        lambda: fence(engine, stale(lease), Event("x", "X"), phase="training"),
        lambda: leave(engine, stale(lease)),
    ):
        with pytest.raises(LeaseLostError):
            write()
    job = look(engine, lease.job_id)
    assert (job.status, job.phase, job.event_seq) == ("running", None, 2)


def test_owner_of_a_finished_job_writes_nothing(engine: Engine) -> None:
    lease = held(engine)
    leave(engine, lease)
    with pytest.raises(LeaseLostError):
        fence(engine, lease)
    with pytest.raises(LeaseLostError):
        leave(engine, lease, JobStatus.FAILED)
    assert look(engine, lease.job_id).status == "succeeded"


def test_lost_fence_takes_the_rest_of_its_transaction_along(engine: Engine) -> None:
    lease = held(engine)
    stale = Lease(lease.job_id, lease.attempt, "host-b/0:1")

    def write() -> None:
        with transaction(engine) as session:
            upsert_metrics(session, stale.job_id, stale.attempt, 1, {"train/loss": 1.0})
            write_with_lease(session, stale, LEASE_MS)

    with pytest.raises(LeaseLostError):
        write()
    with transaction(engine) as session:
        assert session.scalars(select(JobMetric)).all() == []


def test_fence_renews_the_lease_and_tells_what_is_wanted(engine: Engine) -> None:
    lease = held(engine)
    expire(engine, lease)
    assert fence(engine, lease) == DesiredState.RUN
    assert sweep(engine) == []  # it was renewed before anybody took the job
    desire(engine, lease.job_id, DesiredState.PAUSE)
    assert fence(engine, lease) == DesiredState.PAUSE


def test_heartbeat_changes_no_version_but_news_do(engine: Engine) -> None:
    lease = held(engine)
    version = look(engine, lease.job_id).version
    fence(engine, lease)
    assert look(engine, lease.job_id).version == version
    fence(engine, lease, phase="training")
    assert look(engine, lease.job_id).version == version + 1


def test_events_have_no_gap_whoever_writes_them(engine: Engine) -> None:
    lease = held(engine)

    def write(number: int) -> None:
        for _ in range(5):
            if number:
                fence(engine, lease, Event("a", "A"), Event("b", "B"))
            else:
                desire(engine, lease.job_id, DesiredState.PAUSE)
                desire(engine, lease.job_id, DesiredState.RUN)

    at_once(4, write)
    leave(engine, lease)
    events = events_of(engine, lease.job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(events) == look(engine, lease.job_id).event_seq == 3 + 3 * 5 * 2 + 10


# -- leaving ---------------------------------------------------------------------------------


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
def test_failure_leads_where_the_table_says(
    engine: Engine, desired: str, is_retryable: bool, failures: int, stalls: int, status: str
) -> None:
    lease = held(engine)
    change(engine, lease.job_id, desired=desired, failures=failures, stalls=stalls)
    after = transitions.status_after_failure(
        is_retryable=is_retryable, max_failures=3, max_stalls=3
    )
    assert leave(engine, lease, after) == status
    job = look(engine, lease.job_id)
    assert (job.lease_owner, job.lease_expires_at) == (None, None)
    assert (job.finished_at is not None) == (status in ("failed", "cancelled"))


@pytest.mark.parametrize(
    ("desired", "status"), [("run", "queued"), ("pause", "paused"), ("cancel", "cancelled")]
)
def test_release_leads_where_the_owner_wants(engine: Engine, desired: str, status: str) -> None:
    lease = held(engine)
    change(engine, lease.job_id, desired=desired, failures=2, crashes=2, stalls=2)
    assert leave(engine, lease, transitions.status_after_release()) == status
    job = look(engine, lease.job_id)
    assert (job.failures, job.crashes, job.stalls) == (2, 2, 2)  # never charged


def test_every_way_out_of_running_is_a_transition_of_the_table() -> None:
    ways = {
        *("queued", "paused", "succeeded", "failed", "cancelled"),
    }
    assert ways == TRANSITIONS[JobStatus.RUNNING]


def test_time_spent_is_counted_up_to_the_lease_s_end(engine: Engine) -> None:
    lease = held(engine)
    change(engine, lease.job_id, attempt_started_at=now_ms() - 5_000, runtime_ms=1_000)
    leave(engine, lease, transitions.status_after_release(), run_after=now_ms())
    assert 6_000 <= look(engine, lease.job_id).runtime_ms < 36_000
    lease = claim(engine)
    assert lease is not None
    change(
        engine,
        lease.job_id,
        runtime_ms=0,
        attempt_started_at=now_ms() - 3_600_000,
        lease_expires_at=now_ms() - 3_590_000,
    )
    sweep(engine)  # the worker died an hour ago
    assert look(engine, lease.job_id).runtime_ms < 60_000


# -- sweep -----------------------------------------------------------------------------------


def test_sweep_takes_only_what_is_overdue_by_more_than_the_grace(engine: Engine) -> None:
    lease = held(engine)
    assert sweep(engine) == []
    expire(engine, lease)
    assert sweep(engine, grace_ms=60_000) == []
    assert [job.id for job in sweep(engine)] == [lease.job_id]
    job = look(engine, lease.job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 1, None)
    with pytest.raises(LeaseLostError):
        fence(engine, lease)


def test_sweeps_at_once_take_a_job_once(engine: Engine) -> None:
    lease = held(engine)
    expire(engine, lease)
    assert sum(len(jobs) for jobs in at_once(6, lambda _: sweep(engine))) == 1
    assert look(engine, lease.job_id).crashes == 1
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
def test_swept_job_goes_where_the_table_says(
    engine: Engine, desired: str, crashes: int, stalls: int, status: str, code: str | None
) -> None:
    lease = held(engine)
    change(engine, lease.job_id, desired=desired, crashes=crashes, stalls=stalls)
    expire(engine, lease)
    sweep(engine)
    job = look(engine, lease.job_id)
    assert (job.status, job.failure_code if status == "failed" else None) == (status, code)
    assert (job.finished_at is not None) == (status in ("failed", "cancelled"))


def test_own_slot_is_swept_at_once_and_no_other(engine: Engine) -> None:
    queue_job(engine)
    queue_job(engine)
    queue_job(engine)
    mine, sibling = claim(engine, "host_a-12/1:x"), claim(engine, "host_a-12/10:x")
    lookalike = claim(engine, "hostXa-12/1:x")
    assert mine
    assert sibling
    assert lookalike
    swept = sweep(engine, owner_prefix="host_a-12/1:")
    assert [job.id for job in swept] == [mine.job_id]
    assert look(engine, sibling.job_id).status == "running"
    assert look(engine, lookalike.job_id).status == "running"


# -- what the owner wants --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "status"), [(DesiredState.CANCEL, "cancelled"), (DesiredState.PAUSE, "paused")]
)
def test_waiting_job_obeys_at_once_and_again_is_no_change(
    engine: Engine, desired: DesiredState, status: str
) -> None:
    job_id = queue_job(engine)
    first = desire(engine, job_id, desired)
    assert first is not None
    assert first.status == status
    assert (first.finished_at is not None) == (status == "cancelled")
    desire(engine, job_id, desired)
    assert look(engine, job_id).version == first.version
    assert len(events_of(engine, job_id)) == 2


def test_running_job_is_only_asked(engine: Engine) -> None:
    lease = held(engine)
    for desired in (DesiredState.PAUSE, DesiredState.RUN, DesiredState.PAUSE, DesiredState.CANCEL):
        job = desire(engine, lease.job_id, desired)
        assert job is not None
        assert (job.status, job.desired, job.finished_at) == ("running", desired, None)
        version = job.version
        desire(engine, lease.job_id, desired)
        assert look(engine, lease.job_id).version == version


def test_paused_job_waits_again_after_resume(engine: Engine) -> None:
    job_id = queue_job(engine)
    desire(engine, job_id, DesiredState.PAUSE)
    resumed = desire(engine, job_id, DesiredState.RUN)
    assert resumed is not None
    assert (resumed.status, resumed.desired) == ("queued", "run")
    assert claim(engine) is not None


@pytest.mark.parametrize("later", [DesiredState.PAUSE, DesiredState.RUN])
def test_cancel_is_never_taken_back(engine: Engine, later: DesiredState) -> None:
    lease = held(engine)
    desire(engine, lease.job_id, DesiredState.CANCEL)
    job = desire(engine, lease.job_id, later)
    assert job is not None
    assert job.desired == DesiredState.CANCEL
    assert leave(engine, lease, transitions.status_after_release()) == "cancelled"
    assert desire(engine, lease.job_id, later) is None
    assert look(engine, lease.job_id).status == "cancelled"


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("desired", list(DesiredState))
def test_job_that_ended_never_changes(engine: Engine, status: str, desired: DesiredState) -> None:
    lease = held(engine)
    leave(engine, lease, JobStatus(status))
    version = look(engine, lease.job_id).version
    assert desire(engine, lease.job_id, desired) is None
    assert sweep(engine) == []
    job = look(engine, lease.job_id)
    assert (job.status, job.version) == (status, version)


def test_another_tenant_s_job_is_not_touched(engine: Engine) -> None:
    job_id = queue_job(engine, tenant_id="other")
    assert desire(engine, job_id, DesiredState.CANCEL) is None
    with transaction(engine) as session:
        assert not transitions.delete_job(session, TENANT, job_id)
    assert look(engine, job_id).status == "queued"


@pytest.mark.parametrize("keep", [True, False])
def test_cancelled_job_lets_its_checkpoint_go_unless_asked(engine: Engine, keep: bool) -> None:
    waiting = queue_job(engine, checkpoint_id="ckpt_1")
    desire(engine, waiting, DesiredState.CANCEL, keep_checkpoint=keep)
    lease = held(engine, checkpoint_id="ckpt_2")
    desire(engine, lease.job_id, DesiredState.CANCEL, keep_checkpoint=keep)
    assert look(engine, lease.job_id).checkpoint_id == "ckpt_2"
    leave(engine, lease, transitions.status_after_release())
    kept = [look(engine, job_id).checkpoint_id for job_id in (waiting, lease.job_id)]
    assert kept == (["ckpt_1", "ckpt_2"] if keep else [None, None])


def test_only_a_finished_job_is_deleted_and_its_history_goes_along(engine: Engine) -> None:
    lease = held(engine)
    with transaction(engine) as session:
        assert not transitions.delete_job(session, TENANT, lease.job_id)
    leave(engine, lease)
    with transaction(engine) as session:
        assert transitions.delete_job(session, TENANT, lease.job_id)
        assert session.scalars(select(JobEvent)).all() == []


# -- submit and metrics ----------------------------------------------------------------------


def test_idempotency_key_makes_one_job_of_submits_that_race(engine: Engine) -> None:
    def submit(_: int) -> bool:
        try:
            queue_job(engine, idempotency_key="same")
        except DuplicateKeyError:
            return False
        return True

    assert sum(at_once(6, submit)) == 1
    queue_job(engine, idempotency_key="same", tenant_id="other")
    queue_job(engine)
    queue_job(engine)


def test_session_is_good_after_a_duplicate_key(engine: Engine) -> None:
    queue_job(engine, idempotency_key="same")
    with transaction(engine) as session:
        with pytest.raises(DuplicateKeyError):
            make_job(session, idempotency_key="same")
        assert session.scalars(select(Job.idempotency_key)).all() == ["same"]


def test_redone_step_replaces_and_an_older_attempt_never_does(engine: Engine) -> None:
    first = held(engine)
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
