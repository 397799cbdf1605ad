"""Tie the life of a process to its parent (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from worker.ipc.order import EXIT_WATCHDOG

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(EXIT_WATCHDOG)
