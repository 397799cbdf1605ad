"""Tie the life of a trainer process to the thread that started it (Linux)."""

from __future__ import annotations

import os
import signal

from app.core.parent_death import signal_on_parent_death
from worker.ipc.order import EXIT_WATCHDOG


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if not signal_on_parent_death(signal.SIGKILL):
        os._exit(EXIT_WATCHDOG)
