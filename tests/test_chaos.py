"""A short, seeded run of ``make chaos``, and a test of its checker."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chaos.run import Chaos
from tests.services import wait_until
from tests.supervisor.workshop import trainers_below

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_service_loses_nothing_under_faults(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--database", database,
         "--faults", "12", "--seed", "5", "--workers", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    hits = re.search(r"(\d+) of them while a job ran", done.stdout)
    assert hits
    assert int(hits[1]) > 0


def test_checker_detects_trainers_that_outlive_their_workers(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, is_postgres=False, seed=1, sabotage=True)
    stack, checker = chaos.stack, chaos.checker
    try:
        chaos.start(workers=4)
        jobs = [chaos.load.submit(800), chaos.load.submit(800)]
        for job in jobs:
            stack.workshop.wait_step(job)
        first, second = (worker for worker in stack.workers if stack.is_training(worker))
        with stack.engine.begin():  # so that neither holds SQLite's write lock
            first.signal(signal.SIGSTOP)
            second.signal(signal.SIGKILL)
        for job in jobs:
            wait_until(
                "a second trainer", lambda job=job: stack.workshop.read_job(job).attempt == 2, 60
            )
        wait_until("steps of all four trainers", lambda: len(checker.overlaps()) == 2, 60)
        checker.sample()
        assert {job for job, _ in checker.concurrent} == set(jobs)
        assert checker.exposed_takeovers == 2
    finally:
        stack.close()
    assert not trainers_below(tmp_path)
