"""Worker processes that are killed, frozen and drained, on both databases."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from app.core.database import new_id, reader
from app.domain.lifecycle import FailureCode
from app.job_queue import kinds
from app.models import Job
from tests.job_queue.factories import queue_job, requeue_expired
from tests.services import wait_until
from tests.supervisor.workshop import Workshop, log_lines
from worker.supervisor import pool as pool_module
from worker.supervisor.circuit_breaker import MAX_EARLY, CircuitBreaker
from worker.supervisor.job_runner import JobRunner
from worker.supervisor.pool import NoFreeSlotError, WorkerPool

LONG = {"steps": 200, "step_ms": 50, "checkpoint_steps": 5}


def recorded(workshop: Workshop) -> list[list[str]]:
    """Return the recorded lines: time, job, attempt, process id, action, step."""
    lines = (workshop.directory / "models" / "record").read_text().splitlines()
    return sorted((line.split() for line in lines), key=lambda row: int(row[0]))


def assert_no_overlap(workshop: Workshop) -> None:
    """Assert that no attempt did a step after the first step of the next attempt."""
    attempts = [int(row[2]) for row in recorded(workshop)]
    assert attempts == sorted(attempts)


def test_trainer_dies_with_its_worker_and_the_next_worker_resumes_at_once(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(metadata=LONG)
    with workshop.process() as worker:
        workshop.wait_step(job_id, 7)
        worker.kill()
        worker.wait()
        wait_until("the orphan to be gone", lambda: not workshop.trainers())
    workshop.hurry()
    with workshop.process(lease_seconds=600):  # the next worker does not wait until the lease ends
        job = workshop.wait(job_id, "succeeded")
    assert (job.attempt, job.crashes) == (2, 0)  # later checkpoints reset the count
    assert "worker_lost" in workshop.events(job_id)
    assert workshop.adapter(job_id) == workshop.expected(200)
    assert_no_overlap(workshop)


def test_trainer_of_a_frozen_worker_exits_before_another_worker_starts_one(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(metadata=LONG | {"steps": 400})
    with workshop.process() as frozen:
        workshop.wait_step(job_id, 7)
        with workshop.engine.begin():  # so that it is not frozen with SQLite's write lock
            frozen.send_signal(signal.SIGSTOP)
            wait_until("all threads to stop", lambda: has_stopped(frozen.pid))
        with workshop.process(data_dir=workshop.directory / "elsewhere"):
            # Frozen in a transaction, it keeps its row locked until PostgreSQL ends it after 30 s.
            wait_until("the lease to be swept", lambda: bool(sweep(workshop)), 60)
            wait_until("the next attempt", lambda: workshop.read_job(job_id).attempt == 2, 60)
            frozen.send_signal(signal.SIGCONT)
            step = workshop.read_job(job_id).step or 0

            # A claim that waited for a lock of the frozen worker is as old as its self-fence, and
            # its attempt ends at once.
            def swept_job() -> Job:
                sweep(workshop)
                return workshop.read_job(job_id)

            # The other worker has noticed by then.
            wait_until("40 more steps", lambda: (swept_job().step or 0) >= step + 40, 120)
            workshop.hurry()
            wait_until("the job to succeed", lambda: swept_job().status == "succeeded", 120)
    assert workshop.adapter(job_id) == workshop.expected(400)
    assert_no_overlap(workshop)


def has_stopped(pid: int) -> bool:
    """Return whether every thread of a process has stopped."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in threads} == {"T"}


def sweep(workshop: Workshop) -> object:
    return requeue_expired(workshop.engine, workshop.settings)


def test_drained_worker_saves_a_checkpoint_and_releases_the_job_uncharged(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(metadata=LONG | {"checkpoint_steps": 9999})
    with workshop.process() as worker:
        workshop.wait_step(job_id, 3)
        worker.terminate()
        assert worker.wait(timeout=60) == 0
    job = workshop.read_job(job_id)
    assert (job.status, job.failures, job.crashes, job.preemptions) == ("queued", 0, 0, 1)
    assert job.checkpoint_id is not None
    assert not workshop.trainers()
    workshop.hurry()
    with workshop.process():
        workshop.wait(job_id, "succeeded")
    assert workshop.adapter(job_id) == workshop.expected(200)
    assert_no_overlap(workshop)


def test_slot_has_one_worker(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.supervisor.pool.LOCK_SECONDS", 0.2)
    with workshop.running_pool(), pytest.raises(NoFreeSlotError, match="PLAUDIT_DATA_DIR"):
        WorkerPool(workshop.settings)


def test_worker_does_not_sweep_slots_of_another_directory(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata=LONG)
    with workshop.running_pool():
        workshop.wait_step(job_id)
        with workshop.running_pool(data_dir=workshop.directory / "elsewhere"):
            assert workshop.read_job(job_id).status == "running"
            assert workshop.read_job(job_id).attempt == 1


def test_log_lines_about_an_attempt_have_its_job_and_number(workshop: Workshop) -> None:
    job_id = workshop.submit(metadata={"fault": "always kill"})
    with workshop.process() as worker:
        workshop.wait(job_id, "failed")
        worker.terminate()
        worker.wait(timeout=60)
    lines = log_lines(Path(workshop.directory, "worker.log"))
    about = [line for line in lines if line["event"].startswith("attempt_")]
    assert {line["event"] for line in about} == {
        "attempt_started",
        "attempt_failed",
        "attempt_ended",
    }
    assert all(line["job_id"] == job_id for line in about)
    assert {line["attempt"] for line in about} == {1, 2, 3}


def test_worker_continues_when_its_log_pipe_is_closed(workshop: Workshop) -> None:
    readable, log = os.pipe()
    with workshop.process(os.fdopen(log, "wb")):
        workshop.wait(workshop.submit(), "succeeded")
        os.close(readable)
        first, second = workshop.submit(), workshop.submit()
        workshop.wait(first, "succeeded", seconds=30)
        workshop.wait(second, "succeeded", seconds=30)


def test_worker_continues_after_an_attempt_that_could_not_start(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(_: object) -> None:
        failed.set()
        raise RuntimeError("can't start new thread")

    with workshop.running_pool():
        with monkeypatch.context() as patch:
            patch.setattr("worker.supervisor.lease_renewer.LeaseRenewer.start", fail)
            lost = workshop.submit()
            assert failed.wait(60)
        workshop.wait(workshop.submit(), "succeeded", seconds=30)
        wait_until("the lease to be swept", lambda: bool(sweep(workshop)), 60)
        workshop.wait(lost, "succeeded")


# -- the circuit breaker ---------------------------------------------------------------------


def circuit_breaker(status: int) -> CircuitBreaker:
    return CircuitBreaker([{}], ("/bin/sh", "-c", f"exit {status}"))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.supervisor.circuit_breaker.PAUSE_SECONDS", 0)


def test_circuit_breaker_opens_after_three_early_failures(no_pause: None) -> None:
    sick = circuit_breaker(1)
    for _ in range(MAX_EARLY):
        assert sick.allows_claim()
        sick.record_attempt(FailureCode.CUDA_ERROR, 5)
    assert sick.is_open
    assert not sick.allows_claim()
    assert sick.is_open


@pytest.mark.parametrize("status", [0, 1])
def test_self_test_decides_on_a_suspected_machine(status: int) -> None:
    suspected = circuit_breaker(status)
    suspected.suspect()
    assert suspected.is_open
    assert suspected.allows_claim() is (status == 0)
    assert suspected.is_open is (status != 0)
    assert suspected.allows_claim() is (status == 0)  # the next test waits for the pause


def test_self_test_runs_for_each_device_and_sees_nothing_else(
    no_pause: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_HUB_TOKEN", "secret")
    # Passes on the first device only, and fails if it sees the worker's environment.
    test = '[ "$CUDA_VISIBLE_DEVICES" = GPU-1 ] && [ -z "$PLAUDIT_HUB_TOKEN" ]'
    for devices, is_allowed in (("1",), True), (("1", "2"), False):
        environments = [{"CUDA_VISIBLE_DEVICES": f"GPU-{device}"} for device in devices]
        breaker = CircuitBreaker(environments, ("/bin/sh", "-c", test))
        for _ in range(MAX_EARLY):
            breaker.record_attempt(FailureCode.CUDA_ERROR, 5)
        assert breaker.allows_claim() is is_allowed


@pytest.mark.parametrize("is_training", [False, True])
def test_failed_inspections_do_not_stop_training(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, is_training: bool
) -> None:
    pool = WorkerPool(workshop.settings)
    monkeypatch.setattr(pool_module, "JobRunner", CrashedInspection)
    queue = pool.settings.queue if is_training else kinds.INSPECT.queue(pool.settings)
    kind = kinds.TRAIN if is_training else kinds.INSPECT
    try:
        for _ in range(MAX_EARLY):
            queue_job(workshop.engine, queue=queue, kind=kind.name, base_model=new_id("job"))
            assert pool.run_one(queue)
        assert pool._state(kinds.INSPECT.queue(pool.settings)) == "unhealthy"
        assert pool._state(pool.settings.queue) == "ready"
    finally:
        pool.engine.dispose()
        for slot in itertools.chain(*pool._free.values()):
            os.close(slot.lock)


class CrashedInspection(JobRunner):
    """An attempt whose inspection crashed immediately."""

    def run(self) -> None:
        self.failure, self.failed_action = FailureCode.TRAINER_CRASHED, kinds.INSPECT.action


def test_passed_self_test_allows_one_job(no_pause: None) -> None:
    recovered = circuit_breaker(0)
    for _ in range(MAX_EARLY):
        recovered.record_attempt(FailureCode.TRAINER_CRASHED, 5)
    assert recovered.allows_claim()
    recovered.record_attempt(FailureCode.TRAINER_CRASHED, 5)
    assert recovered.is_open
    assert recovered.allows_claim()
    recovered.record_attempt(None, 5)
    recovered.record_attempt(FailureCode.TRAINER_CRASHED, 5)
    assert not recovered.is_open


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [(FailureCode.NAN_LOSS, 5), (FailureCode.TRAINER_CRASHED, 3600), (None, 1)],
)
def test_circuit_breaker_ignores_late_failures_and_those_of_the_job(
    failure: FailureCode | None, seconds: float
) -> None:
    well = circuit_breaker(1)
    for _ in range(10):
        well.record_attempt(failure, seconds)
    assert not well.is_open


def test_unhealthy_worker_registers_as_such_and_claims_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.pool.SEEN_SECONDS", 0.2)
    job_id = workshop.submit(metadata={"fault": "always kill"})
    with workshop.running_pool() as pool:
        workshop.wait(job_id, "failed")
        waiting = workshop.submit()
        wait_until("the worker to be unhealthy", lambda: "unhealthy" in states(workshop))
        assert pool.run_one(workshop.settings.queue) is False
        assert workshop.read_job(waiting).status == "queued"


def states(workshop: Workshop) -> set[str]:
    from sqlalchemy import select

    from app.models import Worker

    with reader(workshop.engine).connect() as connection:
        return set(connection.scalars(select(Worker.state)))


def test_self_test_passes() -> None:
    import sys

    done = subprocess.run(
        [sys.executable, "-P", "-m", "worker.trainer.self_test"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
