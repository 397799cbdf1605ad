"""Limits on this process while it runs code that comes with a base model."""

from __future__ import annotations

import math
import mmap
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


class TokenizerTooCostlyError(Exception):
    """A tokenizer exceeds its memory."""


@contextmanager
def tokenizer_limits(cpu_seconds: float, memory_bytes: int) -> Iterator[None]:
    """Limit the additional CPU time and memory (in bytes) of a tokenizer inside the block.

    A tokenizer's normalizers can make a short text arbitrarily long. They run in Rust, during which
    Python handles no signals: the kernel ends a process that exceeds ``cpu_seconds`` (SIGXCPU), and
    Rust's allocator aborts a process that gets no memory (SIGABRT).

    Raises:
        TokenizerTooCostlyError: an allocation of Python failed.
    """
    cpu, data = resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_DATA)
    cpu_limit = _lower(math.ceil(time.process_time() + cpu_seconds), cpu[0])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu[1]))
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit(memory_bytes), data[1]))
    try:
        yield
    except MemoryError as error:
        raise TokenizerTooCostlyError(
            f"needs more than {memory_bytes >> 20} MiB of memory"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, cpu)
        resource.setrlimit(resource.RLIMIT_DATA, data)


def data_limit(further_bytes: int) -> int:
    """Return the soft RLIMIT_DATA for ``further_bytes`` more, or the current one if it is lower."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm", "rb", buffering=0) as file:
        used = int(file.read().split()[5]) * mmap.PAGESIZE
    return _lower(used + further_bytes, soft)


def _lower(limit: int, present: int) -> int:
    return limit if present == resource.RLIM_INFINITY else min(limit, present)
