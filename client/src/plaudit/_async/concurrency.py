"""Sleeping and file access of the asynchronous client; see also ``_sync/concurrency.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import httpx

T = TypeVar("T")
#: Return type of a reward function.
Rewards: TypeAlias = Awaitable[list[float]]

__all__ = ["AsyncClient", "Rewards", "blocking", "bytes_of", "sleep"]


class AsyncClient(httpx.AsyncClient):
    """Reports every connection that cannot be made as an error of httpx."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request."""
        try:
            return await super().send(request, **options)
        except AttributeError as error:
            # uvloop forgets the socket of a connection that is reset as soon as it was made, and
            # anyio then asks None for the name of the peer, before anything was sent.
            if error.name != "getpeername":
                raise
            raise httpx.ConnectError("the connection was reset", request=request) from error


async def sleep(seconds: float) -> None:
    """Sleep for a number of seconds."""
    await asyncio.sleep(seconds)


async def blocking(function: Callable[[], T]) -> T:
    """Call a function that reads or writes files in a thread, so that the event loop can run."""
    return await asyncio.to_thread(function)


async def bytes_of(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a blocking iterator; each is read in a thread."""
    while True:
        chunk = await asyncio.to_thread(next, chunks, b"")
        if not chunk:
            return
        yield chunk
