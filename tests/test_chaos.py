"""A short, seeded run of the chaos that ``make chaos`` has at length."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chaos import Chaos, options_of
from tests.services import wait_until
from tests.worker.workshop import trainers_below

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_service_that_is_struck_loses_nothing(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "bench/chaos.py", "--database", database,
         "--faults", "12", "--seed", "5", "--workers", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    hits = re.search(r"(\d+) of them while a job ran", done.stdout)
    assert hits
    assert int(hits[1]) > 0


def test_checker_sees_trainers_that_outlive_their_workers(tmp_path: Path) -> None:
    options = options_of(
        ["--database", "sqlite", "--workers", "4", "--seed", "1", "--sabotage", "watchdog"]
    )
    chaos = Chaos(options, tmp_path)
    try:
        chaos.open()
        jobs = [chaos.start(800), chaos.start(800)]
        for job in jobs:
            chaos.shop.wait_step(job)
        first, second = (w for w in chaos.workers if trainers_below(tmp_path / w.name))
        with chaos.engine.begin():  # not while they hold SQLite's one write lock themselves
            first.signal(signal.SIGSTOP)
            second.signal(signal.SIGKILL)
        for job in jobs:
            wait_until("a second trainer", lambda job=job: chaos.shop.look(job).attempt == 2, 60)
        wait_until("steps of all four", lambda: len(chaos.overlaps()) == 2, 60)
        chaos.look()
        assert {job for job, _ in chaos.together} == set(jobs)
        assert chaos.exposed == 2
    finally:
        chaos.close()
    assert not trainers_below(tmp_path)
