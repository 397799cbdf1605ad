"""Sleeping and file access of the synchronous client; see also ``_async/concurrency.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

from httpx import Client

T = TypeVar("T")
#: Return type of a reward function.
Rewards: TypeAlias = list[float]

__all__ = ["Client", "Rewards", "blocking", "bytes_of", "sleep"]


def sleep(seconds: float) -> None:
    """Sleep for a number of seconds."""
    time.sleep(seconds)


def blocking(function: Callable[[], T]) -> T:
    """Call a function that reads or writes files."""
    return function()


def bytes_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Return the chunks."""
    return chunks
