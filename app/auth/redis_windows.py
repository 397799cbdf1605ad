"""Rate-limit windows in Redis, shared by all API processes of one service."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.core.broker import KEY_PREFIX

log = structlog.get_logger()

T = TypeVar("T")

#: What a call raises while Redis is away. A timeout is an OSError. uvloop raises RuntimeError when
#: the client writes to a connection that was reset as soon as it was made.
AWAY = (RedisError, OSError, RuntimeError)
#: How often a process announces itself and, during an outage, tries Redis again.
HEARTBEAT_SECONDS = 2.0
#: A process without a heartbeat for this long is no longer counted.
PROCESS_GONE_SECONDS = 10
#: A request waits no longer than this for Redis.
TIMEOUT_SECONDS = 0.25
MAX_CONNECTIONS = 8

# One clock for all processes: that of Redis.
_HEARTBEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class RedisWindows:
    """Sliding-window counters in Redis, and the number of live API processes.

    ``is_away`` is set by the first call that fails and cleared by the next heartbeat that
    succeeds. Until then no request asks Redis, and each outage is logged once.
    """

    def __init__(self, url: str, service: str) -> None:
        self.processes = 1
        self.is_away = False
        self._name = uuid.uuid4().hex
        self._members = f"{KEY_PREFIX}api-processes:{service}"
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            # Set the client's own timeouts too: a cancellation can be lost while it connects.
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),  # retry once: Redis may have closed the connection
        )
        self._redis = Redis(connection_pool=self._pool)
        self._windows = SlidingWindowCounterRateLimiter(
            RedisStorage(
                f"async+{url}",
                implementation="redispy",
                key_prefix=f"{KEY_PREFIX}rates:{service}",
                connection_pool=self._pool,  # type: ignore[arg-type]  # documented, not typed
            )
        )
        self._heartbeat: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the heartbeat on the running event loop."""
        self._heartbeat = asyncio.create_task(self._beat_forever())

    async def stop(self) -> None:
        """Deregister this process and close the connections."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heartbeat
        if not self.is_away:
            await self._try(lambda: self._redis.zrem(self._members, self._name), otherwise=0)
        await self._pool.aclose()

    async def hit(self, window: RateLimitItem, name: str) -> bool:
        """Count an event. Return False if the window is full; True also while Redis is down."""
        return self.is_away or await self._try(
            lambda: self._windows.hit(window, name), otherwise=True
        )

    async def seconds_until_room(self, window: RateLimitItem, name: str) -> float:
        """Return how long a full window stays full; 0 while Redis is unavailable."""

        async def ask() -> float:
            stats = await self._windows.get_window_stats(window, name)
            return stats.reset_time - time.time()

        return 0.0 if self.is_away else await self._try(ask, otherwise=0.0)

    async def beat(self) -> None:
        """Announce this process and count the live ones."""

        async def announce() -> int | None:
            return int(
                await self._redis.eval(
                    _HEARTBEAT, 1, self._members, self._name, str(PROCESS_GONE_SECONDS)
                )
            )

        found = await self._try(announce, otherwise=None)
        if found is None:
            return
        self.processes = found
        if self.is_away:
            self.is_away = False
            log.info("rate_limits_enforced_again", processes=found)

    async def _beat_forever(self) -> None:
        while True:
            try:
                await self.beat()
            except Exception:  # nothing restarts this task, and limits could stay open
                log.exception("rate_limit_heartbeat_failed")
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _try(self, call: Callable[[], Awaitable[T]], *, otherwise: T) -> T:
        """Return the reply of Redis, or ``otherwise`` if there is none in time."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await call()
        except AWAY as error:
            if not self.is_away:  # calls in progress fail too: log one line for all
                log.warning("rate_limits_open", error=repr(error))
            self.is_away = True
            return otherwise
