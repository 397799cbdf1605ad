"""Places for uploads: how many are read at once, and how they are shared between tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from app.core.errors import RateLimitedError, UnavailableError

T = TypeVar("T")

#: Uploads that one process reads at once, each in a thread of its own: a slow client must not keep
#: others from being answered.
MAX_UPLOADS = 8
#: How long an upload waits for a place.
WAIT_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5.0


class UploadPlaces:
    """The places of one process. A tenant gets a further one if more are free than it has.

    So one tenant holds at most half of the places, the next one half of the rest, and so on
    (dynamic thresholds, Choudhury and Hahne 1998). It is used by the event loop's thread only.
    """

    def __init__(self, total: int = MAX_UPLOADS, wait_seconds: float = WAIT_SECONDS) -> None:
        self._total, self._wait_seconds = total, wait_seconds
        self._held: Counter[str] = Counter()
        self._released = asyncio.Condition()

    @asynccontextmanager
    async def place(self, tenant_id: str) -> AsyncIterator[None]:
        """Hold a place; wait for it if need be.

        Raises:
            RateLimitedError: the tenant's other uploads hold its share.
            UnavailableError: all places are taken.
        """
        await self._take(tenant_id)
        try:
            yield
        finally:
            self._held[tenant_id] -= 1
            if not self._held[tenant_id]:
                del self._held[tenant_id]
            async with self._released:
                self._released.notify_all()

    async def run(self, tenant_id: str, call: Callable[[], T]) -> T:
        """Call something slow in a thread of its own, in a place of the tenant.

        Raises:
            RateLimitedError, UnavailableError: as ``place`` does.
        """
        async with self.place(tenant_id):
            # The places bound the number of threads. The default limiter is for short calls.
            return await to_thread.run_sync(call, limiter=CapacityLimiter(1))

    async def _take(self, tenant_id: str) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds), self._released:
                await self._released.wait_for(lambda: self._free() > self._held[tenant_id])
                self._held[tenant_id] += 1
        except TimeoutError:
            if self._free():
                raise RateLimitedError(
                    f"Your {self._held[tenant_id]} uploads at once are the most that this process "
                    "reads while others upload.",
                    RETRY_AFTER_SECONDS,
                ) from None
            raise UnavailableError(
                f"{self._total} uploads are being read, the most at once.",
                hint="Upload the file again later.",
            ) from None

    def _free(self) -> int:
        return self._total - self._held.total()
