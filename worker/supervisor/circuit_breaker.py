"""Stops the slots of a queue when the machine breaks one job after another."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping

import structlog

from app.domain.lifecycle import FailureCode

log = structlog.get_logger()

#: An attempt that fails within this many seconds of its claim is an early failure.
EARLY_SECONDS = 120.0
#: Early failures in a row that open the circuit breaker.
MAX_EARLY = 3
#: Seconds between two self-tests.
PAUSE_SECONDS = 60.0
#: Seconds that a self-test may take.
TEST_SECONDS = 120.0
SELF_TEST = (sys.executable, "-P", "-m", "worker.trainer.self_test")
#: Failures that another machine may not have.
OF_THE_MACHINE = (
    FailureCode.TRAINER_CRASHED,
    FailureCode.CUDA_ERROR,
    FailureCode.DISK_FULL,
    FailureCode.HOST_ERROR,
)


class CircuitBreaker:
    """Opens after three early failures in a row, or on suspicion.

    It closes for one job when a self-test passes.

    The self-test runs once in each environment: those of the trainers, one for each device.
    """

    def __init__(
        self,
        environments: Iterable[Mapping[str, str]],
        self_test: tuple[str, ...] = SELF_TEST,
    ):
        self._environments = [dict(environment) for environment in environments]
        self._self_test = self_test
        self._lock = threading.Lock()
        self._early_failures = 0
        self._next_test_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether these slots claim no jobs."""
        return self._early_failures >= MAX_EARLY

    def record_attempt(self, failure: FailureCode | None, seconds: float) -> None:
        """Record an attempt that ended ``seconds`` after its claim."""
        with self._lock:
            if failure not in OF_THE_MACHINE or seconds > EARLY_SECONDS:
                self._early_failures = 0
                return
            self._early_failures += 1
            if self.is_open:
                self._next_test_at = time.monotonic() + PAUSE_SECONDS
                log.error(
                    "worker_unhealthy",
                    lost_in_a_row=self._early_failures,
                    failure=failure,
                )

    def suspect(self) -> None:
        """Open, so that the self-test decides on the next claim."""
        with self._lock:
            self._early_failures = max(self._early_failures, MAX_EARLY)
            self._next_test_at = 0.0

    def allows_claim(self) -> bool:
        """Return whether to claim a job; when open, test the machine once per pause."""
        with self._lock:
            if not self.is_open:
                return True
            if time.monotonic() < self._next_test_at:
                return False
            self._next_test_at = time.monotonic() + PAUSE_SECONDS
            if not all(map(self._passes_self_test, self._environments)):
                return False
            self._early_failures = MAX_EARLY - 1  # the next early failure opens it again
            return True

    def _passes_self_test(self, environment: Mapping[str, str]) -> bool:
        device = environment.get("CUDA_VISIBLE_DEVICES")
        try:
            done = subprocess.run(
                self._self_test, env=environment, capture_output=True, timeout=TEST_SECONDS,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("self_test_failed", device=device, error=str(error))
            return False
        stderr = done.stderr.decode(errors="replace")[-2000:]
        log.warning("self_test", device=device, status=done.returncode, stderr=stderr)
        return done.returncode == 0
