"""Stops a worker that breaks every job it touches, before it has gone through the whole queue."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import structlog

from app.domain.lifecycle import FailureCode

log = structlog.get_logger()

#: So many attempts in a row that this machine broke, each so soon after its start.
EARLY_SECONDS = 120.0
MAX_EARLY = 3
#: Between two self-tests.
PAUSE_SECONDS = 60.0
TEST_SECONDS = 120.0
#: Failures that another machine may not have.
OF_THE_MACHINE = (
    FailureCode.TRAINER_CRASHED,
    FailureCode.CUDA_ERROR,
    FailureCode.DISK_FULL,
    FailureCode.HOST_ERROR,
)


class CircuitBreaker:
    """On after three early losses in a row; a self-test that passes lets one job through."""

    def __init__(
        self, test: tuple[str, ...] = (sys.executable, "-P", "-m", "worker.trainer.self_test")
    ):
        self._test = test
        self._lock = threading.Lock()
        self._early = 0
        self._next_test = 0.0

    @property
    def is_on(self) -> bool:
        """Whether this worker leaves jobs to others."""
        return self._early >= MAX_EARLY

    def ended(self, failure: FailureCode | None, seconds: float) -> None:
        """An attempt ended, so long after its claim."""
        with self._lock:
            if failure not in OF_THE_MACHINE or seconds > EARLY_SECONDS:
                self._early = 0
                return
            self._early += 1
            if self.is_on:
                self._next_test = time.monotonic() + PAUSE_SECONDS
                log.error("worker_unhealthy", lost_in_a_row=self._early, failure=failure)

    def may_work(self) -> bool:
        """Whether to claim; tests this machine when the brake is on and a minute has gone by."""
        with self._lock:
            if not self.is_on:
                return True
            if time.monotonic() < self._next_test:
                return False
            self._next_test = time.monotonic() + PAUSE_SECONDS
            if not self._passes():
                return False
            # The next early loss puts it on again.
            self._early = MAX_EARLY - 1
            return True

    def _passes(self) -> bool:
        try:
            done = subprocess.run(
                self._test, capture_output=True, timeout=TEST_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("self_test_failed", error=str(error))
            return False
        log.warning("self_test", status=done.returncode, said=done.stderr.decode()[-2000:])
        return done.returncode == 0
