"""The claim: one winner, the right job, within the quota, on the right host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine

from app.core.database import now_ms
from app.job_queue import kinds, transitions
from app.job_queue.guards import AVOID_HOST_MS
from tests.job_queue.factories import (
    TENANT,
    queue_job,
    read_job,
    update_job,
)
from tests.job_queue.statements import (
    LONGEST_DELAY_MS,
    claim_job,
    end_attempt,
    make_running_job,
    make_worker,
    run_concurrently,
)


def test_claim_has_one_winner(engine: Engine) -> None:
    job_id = queue_job(engine)
    leases = run_concurrently(8, lambda i: claim_job(engine, f"host-a/0:{i}"))
    won = [lease for lease in leases if lease]
    assert [(lease.job_id, lease.attempt) for lease in won] == [(job_id, 1)]
    job = read_job(engine, job_id)
    assert (job.status, job.lease_owner, job.attempt) == ("running", won[0].owner, 1)


def test_concurrent_workers_claim_every_job_once(engine: Engine) -> None:
    ids = {queue_job(engine) for _ in range(20)}

    def work(number: int) -> list[str]:
        got = []
        while lease := claim_job(engine, f"host-a/{number}:1"):
            got.append(lease.job_id)
        return got

    assert Counter(i for got in run_concurrently(4, work) for i in got) == Counter(ids)


def test_claim_takes_the_highest_priority_and_then_the_oldest(engine: Engine) -> None:
    first, second = queue_job(engine), queue_job(engine)
    urgent = queue_job(engine, priority=5)
    leases = [claim_job(engine) for _ in range(4)]
    assert [lease and lease.job_id for lease in leases] == [urgent, first, second, None]


@pytest.mark.parametrize(
    "fields",
    [{"run_after": now_ms() + 60_000, "attempt": 1}, {"queue": "another"}, {"status": "paused"}],
    ids=["not due", "other queue", "paused"],
)
def test_claim_skips_other_jobs(engine: Engine, fields: dict[str, Any]) -> None:
    queue_job(engine, **fields)
    assert claim_job(engine) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"run_after": now_ms() + 60_000},
        {"run_after": now_ms() + LONGEST_DELAY_MS + 60_000, "attempt": 1},
    ],
    ids=["never tried", "beyond the longest delay"],
)
def test_claim_takes_jobs_that_wait_because_the_clock_stepped_back(
    engine: Engine, fields: dict[str, Any]
) -> None:
    job_id = queue_job(engine, **fields)
    lease = claim_job(engine)
    assert lease is not None
    assert lease.job_id == job_id


def test_claim_sets_the_start_of_the_attempt_and_keeps_the_first_start(engine: Engine) -> None:
    lease = make_running_job(engine)
    first = read_job(engine, lease.job_id)
    assert first.started_at == first.attempt_started_at
    end_attempt(engine, lease, transitions.status_after_release(), run_after=now_ms())
    update_job(engine, lease.job_id, started_at=1000)
    claim_job(engine)
    second = read_job(engine, lease.job_id)
    assert second.started_at == 1000
    assert second.attempt_started_at is not None
    assert second.attempt_started_at > 1000
    assert second.attempt == 2


def test_job_that_needs_a_gpu_waits_for_a_slot_with_one(engine: Engine) -> None:
    quantized = queue_job(engine, priority=5, needs_gpu=True)
    plain = queue_job(engine)
    leases = [claim_job(engine, has_gpu=has_gpu) for has_gpu in (False, False, True)]
    assert [lease and lease.job_id for lease in leases] == [plain, None, quantized]


def test_slot_with_a_gpu_takes_jobs_that_need_none(engine: Engine) -> None:
    plain = queue_job(engine)
    lease = claim_job(engine, has_gpu=True)
    assert lease is not None
    assert lease.job_id == plain


def test_concurrent_claims_respect_the_quota(engine: Engine) -> None:
    for _ in range(6):
        queue_job(engine)
    other = queue_job(engine, tenant_id="other")
    won = run_concurrently(6, lambda i: claim_job(engine, f"host-a/{i}:1", quota_running=2))
    tenants = Counter(read_job(engine, lease.job_id).tenant_id for lease in won if lease)
    assert tenants == {TENANT: 2, "other": 1}
    assert read_job(engine, other).status == "running"


def test_inspections_do_not_count_against_the_quota(
    engine: Engine,
) -> None:
    make_running_job(engine)
    inspection = queue_job(engine, kind=kinds.INSPECT.name)
    queue_job(engine)
    assert claim_job(engine, quota_running=2) is not None
    assert read_job(engine, inspection).status == "running"
    assert claim_job(engine, quota_running=2) is not None
    assert claim_job(engine, quota_running=2) is None


def test_avoided_host_leaves_the_job_to_another_host(engine: Engine) -> None:
    job_id = queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    make_worker(engine, "good")
    assert claim_job(engine, host="bad") is None
    update_job(engine, job_id, run_after=now_ms() - AVOID_HOST_MS - 1000)
    assert claim_job(engine, host="bad") is not None


@pytest.mark.parametrize(
    "other",
    [{}, {"state": "draining"}, {"state": "unhealthy"}, {"seen_at": 1000}, {"queue": "another"}],
)
def test_avoided_host_claims_the_job_when_no_other_can(
    engine: Engine, other: dict[str, Any]
) -> None:
    queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    if other:
        make_worker(engine, "gone", **other)
    assert claim_job(engine, host="bad") is not None


def test_other_host_claims_the_job_at_once(engine: Engine) -> None:
    queue_job(engine, avoid_host="bad")
    make_worker(engine, "bad")
    assert claim_job(engine, host="good") is not None
