"""The trainer's pipes: progress messages on stdout, keep-alives and requests to stop on stdin.

Imports the standard library and ``app.domain`` only, so that the watchdog runs before torch is
imported.
"""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from worker.ipc.order import EXIT_STOPPED, EXIT_WATCHDOG, STOP

if TYPE_CHECKING:
    from app.domain.progress import Message


class Channel:
    """Writes messages to a private copy of stdout. Other output to stdout goes to stderr."""

    _exits_on_stop = False

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def is_stop_wanted(self) -> bool:
        """Whether the supervisor requested a checkpoint and an exit."""
        return self._stop.is_set()

    @contextmanager
    def exiting_on_stop(self) -> Iterator[None]:
        """Exit at once on a request to stop, in work that leaves nothing to save and takes long.

        The block should begin with a look at ``is_stop_wanted``, for an earlier request.
        """
        self._exits_on_stop = True
        try:
            yield
        finally:
            self._exits_on_stop = False

    def watch(self, watchdog_seconds: float) -> None:
        """Read stdin in a thread. Exit with EXIT_WATCHDOG after ``watchdog_seconds`` of silence."""
        threading.Thread(
            target=self._read_control_lines, args=(watchdog_seconds,), name="watchdog", daemon=True
        ).start()

    def send(self, message: Message) -> None:
        """Write a message as one line. Exit with EXIT_WATCHDOG if the supervisor is gone."""
        line = message.model_dump_json().encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._out, line) :]
            except BrokenPipeError:
                os._exit(EXIT_WATCHDOG)

    def _read_control_lines(self, watchdog_seconds: float) -> None:
        wait = select.poll()
        wait.register(0, select.POLLIN | select.POLLHUP)
        rest = b""
        while True:
            if not wait.poll(watchdog_seconds * 1000):
                _exit(b"no keep-alive from the supervisor: exiting\n")
            data = os.read(0, 4096)
            if not data:
                _exit(b"the supervisor is gone: exiting\n")
            *lines, rest = (rest + data).split(b"\n")  # any data counts as a keep-alive
            if STOP.rstrip() in lines:
                self._stop.set()
                if self._exits_on_stop:
                    self._exit_stopped()

    def _exit_stopped(self) -> NoReturn:
        from app.domain.progress import Stopped

        self.send(Stopped(step=0))
        os._exit(EXIT_STOPPED)


def _exit(message: bytes) -> NoReturn:
    """Exit with EXIT_WATCHDOG. A full pipe to a frozen supervisor must not delay the exit."""
    with suppress(OSError):
        os.set_blocking(2, False)
        os.write(2, message)
    os._exit(EXIT_WATCHDOG)


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are finite: JSON has no NaN and no infinity."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
