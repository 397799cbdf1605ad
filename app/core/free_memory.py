"""Give memory that the allocator keeps for later back to the system."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Call ``malloc_trim(3)``, which takes milliseconds; do nothing where the C library lacks it.

    glibc keeps freed memory in an arena of each thread, so that a process that has read a few
    large uploads at once would stay tens of mebibytes larger.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
