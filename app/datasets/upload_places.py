"""Limit concurrent uploads per process, and share the places between tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from app.core.errors import RateLimitedError, UnavailableError
from app.core.free_memory import give_back_memory
from app.core.shares import Shares

T = TypeVar("T")

#: Number of uploads that one process reads concurrently, each in its own thread, so that slow
#: clients do not block other requests.
MAX_UPLOADS = 8
#: Seconds that an upload waits for a place.
WAIT_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5.0
TIDY_SECONDS = 2.0


class UploadPlaces:
    """Upload places of one process; use it on the event loop only."""

    def __init__(self, total: int = MAX_UPLOADS, wait_seconds: float = WAIT_SECONDS) -> None:
        self._shares, self._wait_seconds = Shares(total), wait_seconds
        self._released = asyncio.Condition()
        self._is_tidying = False

    @asynccontextmanager
    async def place(self, tenant_id: str) -> AsyncIterator[None]:
        """Hold a place, after waiting for a free one.

        Raises:
            RateLimitedError: the tenant's other uploads hold its share of the places.
            UnavailableError: all places are taken.
        """
        await self._take(tenant_id)
        try:
            yield
        finally:
            self._shares.give_back(tenant_id)
            async with self._released:
                self._released.notify_all()

    async def run(self, tenant_id: str, call: Callable[[], T]) -> T:
        """Run a slow call in its own thread, in a place of the tenant.

        Raises:
            RateLimitedError, UnavailableError: as in ``place``.
        """
        async with self.place(tenant_id):
            try:
                # The places bound the number of threads. The default limiter is for short calls.
                return await to_thread.run_sync(call, limiter=CapacityLimiter(1))
            finally:
                self._tidy_soon()

    def _tidy_soon(self) -> None:
        """Give memory back when the upload's objects are gone; many uploads cause one call."""
        if not self._is_tidying:
            self._is_tidying = True
            asyncio.get_running_loop().call_later(TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._is_tidying = False
        asyncio.get_running_loop().run_in_executor(None, give_back_memory)

    async def _take(self, tenant_id: str) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds), self._released:
                await self._released.wait_for(lambda: self._shares.may_take(tenant_id))
                self._shares.take(tenant_id)
        except TimeoutError:
            if self._shares.free:
                raise RateLimitedError(
                    f"{self._shares.held(tenant_id)} of your uploads are in progress, the limit "
                    "while other tenants upload.",
                    RETRY_AFTER_SECONDS,
                ) from None
            raise UnavailableError(
                f"{self._shares.total} uploads are in progress, the limit of the server.",
                hint="Upload the file again later.",
            ) from None
