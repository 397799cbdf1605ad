"""How the synchronous client waits; its asynchronous twin is ``_async/concurrency.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

from httpx import Client

T = TypeVar("T")
#: What a reward function returns.
Rewards: TypeAlias = list[float]

__all__ = ["Client", "Rewards", "blocking", "bytes_of", "sleep"]


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def blocking(function: Callable[[], T]) -> T:
    """Call something that reads or writes files."""
    return function()


def bytes_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Chunks that something makes."""
    return chunks
