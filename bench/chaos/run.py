"""One run: the stack, its load, its faults and its checker."""

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
    """Everything that a seed stands for."""

    def __init__(
        self, directory: Path, *, is_postgres: bool, seed: int, sabotage: bool = False
    ) -> None:
        self._draws = random.Random(seed)
        self.stack = Stack(directory, is_postgres=is_postgres)
        self.load = Load(self.stack, self._draws, outlive=sabotage)
        self.faults = Faults(self.stack, self._draws)
        self.checker = Checker(self.stack, self.load.jobs)

    def open(self, workers: int, *, with_real: bool = False) -> None:
        """Start the service."""
        self.stack.open()
        if with_real:
            self.load.add_real_base_model()
        self.stack.start(workers)
        self.checker.keep_looking()

    def run(self, faults: int, every: float, real: int = 0) -> list[str]:
        """Load and faults, until all jobs ended; what is wrong then, a line each."""
        stack = self.stack
        stack.until("the API", stack.api_answers, 120)
        if real:
            self.load.submit_real(real)
        started, next_fault = time.monotonic(), time.monotonic() + 3
        while self.faults.count.total() < faults:
            stack.tend()
            if stack.live() < 2 * len(stack.workers):
                self.load.submit()
            if time.monotonic() >= next_fault:
                next_fault = time.monotonic() + self._draws.uniform(0.5, 1.5) * every
                self.faults.strike()
            time.sleep(0.05)
        self.seconds = time.monotonic() - started
        self.load.resume_paused()
        deadline = time.monotonic() + 300 + 60 * real
        while stack.live() and time.monotonic() < deadline:
            stack.tend()
            self.load.resume_paused()
            time.sleep(0.5)
        wrong = self.checker.check()
        for member in stack.members:
            member.end()
        time.sleep(1)
        return wrong + [f"orphan: in {place}" for place in attempts_below(stack.directory)]
