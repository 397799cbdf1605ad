"""The CPU cores that this worker may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Quota and period of the control group in microseconds, or "max" and the period (cgroup v2).
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cores_of_slot(slots: int) -> int:
    """Return the cores of each of ``slots`` slots: by affinity and the container's quota."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores // slots)
