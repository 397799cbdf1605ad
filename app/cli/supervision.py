"""Runs one worker process next to the API, restarts it when it dies, and drains it at shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import structlog

from app.core.backoff import exponential_delays
from app.core.child_process import start_module
from app.core.parent_death import signal_on_parent_death

log = structlog.get_logger()

RESTART_SECONDS = 1.0
RESTART_MAX_SECONDS = 30.0
#: A worker that ran longer than this restarts with the shortest delay again.
STEADY_SECONDS = 60.0
#: Added to the drain time, to store the last checkpoint and hand the job back.
HAND_BACK_SECONDS = 30.0


class WorkerSupervisor:
    """Runs ``python -m worker`` and restarts it whenever it dies.

    The kernel kills the worker when this process is killed. The parent-death signal is tied to the
    thread that started the worker, so that thread must live as long as the worker.
    """

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._stopping = threading.Event()
        self._hurrying = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="worker-supervisor", daemon=True)

    def start(self) -> None:
        """Start the worker; it is restarted whenever it dies."""
        self._thread.start()

    def hurry(self) -> None:
        """Make ``stop`` kill the worker immediately. Safe to call in a signal handler."""
        self._hurrying.set()

    def stop(self) -> None:
        """Let the worker save a checkpoint and hand its job back; kill it if it takes too long."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        give_up_at = time.monotonic() + self._drain_seconds + HAND_BACK_SECONDS
        while self._thread.is_alive():
            if self._hurrying.is_set() or time.monotonic() > give_up_at:
                self._signal(signal.SIGKILL)
            self._thread.join(timeout=0.2)

    def _keep(self) -> None:
        delays = _restart_delays()
        while True:
            with self._guard:
                if self._stopping.is_set():
                    return
                self._process = process = start_module("worker")
            started_at = time.monotonic()
            status = process.wait() if process else None
            if self._stopping.is_set():
                return
            if time.monotonic() - started_at > STEADY_SECONDS:
                delays = _restart_delays()
            delay = next(delays)
            log.error("worker_died", status=status, restart_seconds=delay)
            self._stopping.wait(delay)

    def _signal(self, number: int) -> None:
        with self._guard:
            if self._process is not None:
                self._process.send_signal(number)


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent process ends (Linux)."""
    signal_on_parent_death(signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before the call
        sys.exit(1)


def _restart_delays() -> Iterator[float]:
    return exponential_delays(base=RESTART_SECONDS, maximum=RESTART_MAX_SECONDS)
