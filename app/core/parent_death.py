"""The parent-death signal of a process (Linux). Imports the standard library only."""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def signal_on_parent_death(number: int) -> bool:
    """Have the kernel send this process a signal when the thread that started it ends.

    Returns:
        False if the parent has ended already; the signal will not come. True elsewhere than Linux.
    """
    if not sys.platform.startswith("linux"):
        return True
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent
