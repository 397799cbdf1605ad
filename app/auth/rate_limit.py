"""How often somebody may ask: token buckets in this process, so each API process counts its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

from app.core.settings import Settings

#: So many names are counted at once; when there are more, those who asked least lately start anew.
MAX_NAMES = 10_000


class TokenBucketLimiter:
    """A bucket a name, filled with ``per_second`` tokens up to ``burst``; asking takes one."""

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._lock = threading.Lock()
        # Tokens, and when that many were there. Who was here last comes last.
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Take a token: 0, or the seconds until there will be one."""
        with self._lock:
            now = self._clock()
            tokens, then = self._buckets.pop(name, (float(self._burst), now))
            tokens = min(self._burst, tokens + (now - then) * self._per_second)
            is_taken = tokens >= 1
            self._buckets[name] = tokens - 1 if is_taken else tokens, now
            if len(self._buckets) > MAX_NAMES:
                del self._buckets[next(iter(self._buckets))]
            return 0 if is_taken else (1 - tokens) / self._per_second

    def give_back(self, name: str) -> None:
        """Put back a token that was taken in vain."""
        with self._lock:
            if name in self._buckets:
                tokens, then = self._buckets[name]
                self._buckets[name] = tokens + 1, then


class ConcurrencyLimiter:
    """How much of something each name may have open; entered and left on one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: Counter[str] = Counter()

    def is_full(self, name: str) -> bool:
        """Whether one more would be too many."""
        return self._open[name] >= self.limit

    def enter(self, name: str) -> bool:
        """Open one more, unless there are too many."""
        if self.is_full(name):
            return False
        self._open[name] += 1
        return True

    def leave(self, name: str) -> None:
        """One that was entered is over."""
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]


class Rates:
    """What the operator allows: requests of a key, wrong keys from an address."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = TokenBucketLimiter(settings.rate_per_second, settings.rate_burst, clock)
        wrong = settings.failed_logins_per_minute
        self.failed_logins = TokenBucketLimiter(wrong / 60, wrong, clock)
        self.open_answers = ConcurrencyLimiter(settings.open_answers)


def client_network(address: str | None) -> str:
    """Whom an address stands for: an IPv6 host owns a /64 and can come from any part of it."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return address or ""
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Network((found.packed, 64), strict=False))
