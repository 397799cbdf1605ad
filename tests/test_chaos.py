"""A short, seeded run of the chaos that ``make chaos`` has at length."""

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
def test_service_that_is_struck_loses_nothing(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--database", database,
         "--faults", "12", "--seed", "5", "--workers", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    hits = re.search(r"(\d+) of them while a job ran", done.stdout)
    assert hits
    assert int(hits[1]) > 0


def test_checker_sees_trainers_that_outlive_their_workers(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, is_postgres=False, seed=1, sabotage=True)
    stack, checker = chaos.stack, chaos.checker
    try:
        chaos.open(workers=4)
        jobs = [chaos.load.start(800), chaos.load.start(800)]
        for job in jobs:
            stack.shop.wait_step(job)
        first, second = (worker for worker in stack.workers if stack.is_busy(worker))
        with stack.engine.begin():  # not while they hold SQLite's one write lock themselves
            first.signal(signal.SIGSTOP)
            second.signal(signal.SIGKILL)
        for job in jobs:
            wait_until("a second trainer", lambda job=job: stack.shop.look(job).attempt == 2, 60)
        wait_until("steps of all four", lambda: len(checker.overlaps()) == 2, 60)
        checker.look()
        assert {job for job, _ in checker.together} == set(jobs)
        assert checker.exposed == 2
    finally:
        stack.close()
    assert not trainers_below(tmp_path)
