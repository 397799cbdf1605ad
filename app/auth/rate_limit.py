"""Limits per API key and per client network, counted by the library ``limits``.

Strategy: ``limits``' sliding window counter. A limit of R requests a second with a burst of B is a
window of B / R seconds, rounded up to whole seconds, that holds R × seconds requests (at least B).
By default that is 60 requests in any 3 seconds. A client that has used its burst waits until
requests leave the window; it does not regain one every 1 / R seconds as with a token bucket. The
counter approximates the previous window by its mean rate and stores two numbers per name. In Redis
it uses the clock of Redis, so the clocks of the API processes need not agree.

Several API processes share each limit. Redis on every request lowered the throughput of status
polls by 36 % (bench/api.py), so each of N processes may pass a quarter of the limit divided by N
without asking Redis, and the rest is one window in Redis. Together they never pass more than the
limit, and a client that reaches only one process still gets more than three quarters of it. A
single process counts in memory.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from ipaddress import IPv6Address, IPv6Network, ip_address
from threading import Timer
from typing import NamedTuple

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.auth.redis_windows import RedisWindows
from app.core.settings import Settings

#: Maximum number of windows in this process. When it is exceeded, all windows are reset.
MAX_WINDOWS = 20_000
#: Expired windows are dropped when there are this many, or twice as many as the last time.
MIN_SWEPT = 1000
#: Number of equal parts of a limit. One is divided among the processes, the others are in Redis.
PARTS = 4
#: Shortest wait that a rejected request is told.
MIN_WAIT_SECONDS = 0.001


class _NoTimer(Timer):
    """Prevents MemoryStorage from starting a thread after every event.

    Up to 100 threads per second would each scan all windows and delay the event loop.
    """

    def __init__(self) -> None:
        super().__init__(0, lambda: None)

    def is_alive(self) -> bool:
        """Return True, so that the storage starts no other timer."""
        return True


class MemoryWindows:
    """Sliding-window counters of this process; used on one event loop."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._storage = MemoryStorage()
        self._storage.timer.cancel()
        self._storage.timer = _NoTimer()
        self._windows = SlidingWindowCounterRateLimiter(self._storage)
        self._sweep_at = MIN_SWEPT

    def __len__(self) -> int:
        return len(self._storage.expirations)

    def hit(self, window: RateLimitItem, name: str) -> bool:
        """Count an event. Return False if the window is full."""
        if len(self) >= min(self._sweep_at, MAX_WINDOWS):
            self._sweep()
        return self._windows.hit(window, name)

    def _sweep(self) -> None:
        """Drop the windows that have expired; the cost per event stays constant."""
        now = time.time()
        for key, expires_at in list(self._storage.expirations.items()):
            if expires_at <= now:
                self._storage.clear(key)
        self._sweep_at = max(2 * len(self), MIN_SWEPT)
        if len(self) >= MAX_WINDOWS:
            self._start_anew()

    def seconds_until_room(self, window: RateLimitItem, name: str) -> float:
        """Return how long a full window stays full."""
        return self._windows.get_window_stats(window, name).reset_time - time.time()


class Shares(NamedTuple):
    """A limit in two parts; None means that the part allows no events."""

    own: RateLimitItem | None
    shared: RateLimitItem | None


class RateLimiter:
    """One limit, counted separately for each name.

    Args:
        window: how many events in how many seconds.
        redis: where processes share the limit; None: in this process only.
    """

    def __init__(self, window: RateLimitItem, redis: RedisWindows | None = None) -> None:
        self._window = window
        self._memory = MemoryWindows()
        self._redis = redis
        self._processes, self._shares = 1, divide(window, 1)

    async def acquire(self, name: str) -> float:
        """Count an event. Return 0, or the seconds to wait if the limit is reached.

        While Redis is unavailable, every event passes: an outage must not reject clients.
        """
        redis = self._redis
        if redis is None:
            return self._take_own(self._window, name)
        if redis.is_away:
            return 0
        if redis.processes != self._processes:
            self._processes = redis.processes
            self._shares = divide(self._window, redis.processes)
        own, shared = self._shares
        wait = self._take_own(own, name) if own else math.inf
        if wait and shared:
            if await redis.hit(shared, name):
                return 0
            if own is None:
                return max(await redis.seconds_until_room(shared, name), MIN_WAIT_SECONDS)
        return wait

    def _take_own(self, window: RateLimitItem, name: str) -> float:
        if self._memory.hit(window, name):
            return 0
        return max(self._memory.seconds_until_room(window, name), MIN_WAIT_SECONDS)


class ConcurrencyLimiter:
    """Limits the open streams per name; used on one event loop.

    The library ``limits`` counts events over time and cannot limit concurrent use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: Counter[str] = Counter()

    def is_full(self, name: str) -> bool:
        """Return whether one more would exceed the limit."""
        return self._open[name] >= self.limit

    def enter(self, name: str) -> bool:
        """Count an opened stream. Return False if the limit is reached."""
        if self.is_full(name):
            return False
        self._open[name] += 1
        return True

    def leave(self, name: str) -> None:
        """Count a closed stream, once for each ``enter`` that returned True."""
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]


class Rates:
    """The limits of this service: requests and open responses per key, failed logins per network.

    No connection is opened before ``start``, which needs a running event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.redis: RedisWindows | None = None
        if settings.redis_url is not None:
            self.redis = RedisWindows(settings.redis_url.get_secret_value(), settings.queue)
        self.requests = RateLimiter(
            request_window(settings.rate_per_second, settings.rate_burst), self.redis
        )
        self.failed_logins = RateLimiter(
            RateLimitItemPerMinute(settings.failed_logins_per_minute, namespace="failed-logins"),
            self.redis,
        )
        self.open_answers = ConcurrencyLimiter(settings.open_answers)

    def start(self) -> None:
        """Start sharing the limits with the other API processes."""
        if self.redis is not None:
            self.redis.start()

    async def stop(self) -> None:
        """Leave the group of processes that share the limits."""
        if self.redis is not None:
            await self.redis.stop()


def request_window(per_second: float, burst: int) -> RateLimitItem:
    """Return the shortest window of whole seconds that holds ``burst`` at ``per_second``."""
    seconds = max(1, math.ceil(burst / per_second))
    # In floating point, 0.29 × 100 is slightly less than 29.
    amount = max(burst, math.floor(per_second * seconds + 1e-9))
    return RateLimitItemPerSecond(amount, seconds, namespace="requests")


def divide(window: RateLimitItem, processes: int) -> Shares:
    """Split a limit into the part of each process and the part that is counted in Redis."""
    if processes <= 1:
        return Shares(window, None)
    own = window.amount // (PARTS * processes)
    shared = window.amount - own * processes
    return Shares(_resized(window, own), _resized(window, shared))


def _resized(window: RateLimitItem, amount: int) -> RateLimitItem | None:
    return type(window)(amount, window.multiples, window.namespace) if amount else None


def client_network(address: str | None) -> str:
    """Return the network that failed logins of ``address`` count for.

    An IPv6 host usually owns a /64 and can use any address of it. An IPv4-mapped address counts as
    the IPv4 address. Any other text is returned unchanged.
    """
    try:
        found = ip_address(address or "")
    except ValueError:
        return address or ""
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Network((found.packed, 64), strict=False))
