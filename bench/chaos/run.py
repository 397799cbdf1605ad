"""One run: a stack, its load, its faults and its checker."""

from __future__ import annotations

import random
import time
from pathlib import Path

from bench.chaos.checker import Checker
from bench.chaos.faults import Faults
from bench.chaos.load import Load
from bench.chaos.stack import Stack
from tests.supervisor.workshop import attempts_below


class Chaos:
    """A run whose load and faults are drawn from one seed."""

    def __init__(
        self, directory: Path, *, is_postgres: bool, seed: int, sabotage: bool = False
    ) -> None:
        self._draws = random.Random(seed)
        self.stack = Stack(directory, is_postgres=is_postgres)
        self.load = Load(self.stack, self._draws, with_orphans=sabotage)
        self.faults = Faults(self.stack, self._draws)
        self.checker = Checker(self.stack, self.load.jobs)

    def start(self, workers: int, *, with_real: bool = False) -> None:
        """Start the service."""
        self.stack.open()
        if with_real:
            self.load.add_real_base_model()
        self.stack.start(workers)
        self.checker.start_sampling()

    def run(self, faults: int, interval_seconds: float, real: int = 0) -> list[str]:
        """Submit jobs and inject faults, wait until all jobs have ended, return the violations."""
        stack = self.stack
        stack.wait_until("the API", stack.is_api_up, 120)
        if real:
            self.load.submit_real(real)
        started, next_fault = time.monotonic(), time.monotonic() + 3
        while self.faults.count.total() < faults:
            stack.maintain()
            if stack.count_unfinished() < 2 * len(stack.workers):
                self.load.submit_random()
            if time.monotonic() >= next_fault:
                next_fault = time.monotonic() + self._draws.uniform(0.5, 1.5) * interval_seconds
                self.faults.inject()
            time.sleep(0.05)
        self.seconds = time.monotonic() - started
        self.load.resume_paused()
        deadline = time.monotonic() + 300 + 60 * real
        while stack.count_unfinished() and time.monotonic() < deadline:
            stack.maintain()
            self.load.resume_paused()
            time.sleep(0.5)
        violations = self.checker.check()
        for process in stack.processes:
            process.kill()
        time.sleep(1)
        return violations + [f"orphan: in {place}" for place in attempts_below(stack.directory)]
