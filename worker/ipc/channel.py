"""The trainer's two pipes: progress messages out, keep-alives and the wish to stop in.

Stdlib and ``app.domain`` only: this is in force before anything heavy is imported.
"""

from __future__ import annotations

import math
import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from worker.ipc.order import EXIT_WATCHDOG, STOP

if TYPE_CHECKING:
    from app.domain.progress import Message


class Channel:
    """Says messages on a private copy of stdout; whatever prints to fd 1 goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def is_stop_wanted(self) -> bool:
        """Whether the supervisor asked for a checkpoint and an end."""
        return self._stop.is_set()

    def watch(self, watchdog_seconds: float) -> None:
        """Hear stdin from now on; exit 70 after silence, or when the supervisor is gone."""
        threading.Thread(
            target=self._hear, args=(watchdog_seconds,), name="watchdog", daemon=True
        ).start()

    def say(self, message: Message) -> None:
        """Write one message as one line; exit 70 when nobody reads any more."""
        line = message.model_dump_json().encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._out, line) :]
            except BrokenPipeError:
                os._exit(EXIT_WATCHDOG)

    def _hear(self, watchdog_seconds: float) -> None:
        wait = select.poll()
        wait.register(0, select.POLLIN | select.POLLHUP)
        heard = b""
        while True:
            if not wait.poll(watchdog_seconds * 1000):
                _leave(b"no keep-alive from the supervisor: exiting\n")
            data = os.read(0, 4096)
            if not data:
                _leave(b"the supervisor is gone: exiting\n")
            *lines, heard = (heard + data).split(b"\n")  # any line at all is a sign of life
            if STOP.rstrip() in lines:
                self._stop.set()


def _leave(why: bytes) -> NoReturn:
    """Exit 70; a supervisor that is frozen or gone reads no log, which must not hold this up."""
    with suppress(OSError):
        os.set_blocking(2, False)
        os.write(2, why)
    os._exit(EXIT_WATCHDOG)


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without what JSON cannot say."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
