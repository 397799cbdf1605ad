"""How the asynchronous client waits; its synchronous twin is ``_sync/concurrency.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias, TypeVar

from httpx import AsyncClient

T = TypeVar("T")
#: What a reward function returns.
Rewards: TypeAlias = Awaitable[list[float]]

__all__ = ["AsyncClient", "Rewards", "blocking", "bytes_of", "sleep"]


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def blocking(function: Callable[[], T]) -> T:
    """Call something that reads or writes files, without holding up the event loop."""
    return await asyncio.to_thread(function)


async def bytes_of(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks that something blocking makes."""
    while True:
        chunk = await asyncio.to_thread(next, chunks, b"")
        if not chunk:
            return
        yield chunk
