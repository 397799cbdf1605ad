"""When a request is repeated, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from plaudit.errors import APIError, ConnectionFailedError, PlauditError

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 15.0
#: As many attempts as time allows.
UNCOUNTED = 2**31
#: Of requests that change nothing when they are repeated.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """How patient the client is.

    Only requests that are safe to repeat are sent again: those that read, those that the service
    answers alike a second time, and creations with an idempotency key. ``Retries(attempts=1)``
    sends everything once.
    """

    attempts: int = 5
    """How often a request is sent, at most."""
    seconds: float = 120.0
    """How long, from its first failure on, a request is retried. Also bounds ``Retry-After``."""
    outage_seconds: float = 600.0
    """How long ``wait``, ``events``, ``logs`` and downloads put up with a service that is away;
    0: as long as other requests."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.seconds < 0 or self.outage_seconds < 0:
            raise ValueError("Retries need at least one attempt and no negative times.")

    def during_outage(self, seconds: float | None = None) -> Retries:
        """For requests of something that goes on for long: bounded by time alone."""
        if self.attempts == 1 or not self.outage_seconds:
            return self
        patience = max(self.outage_seconds, self.seconds)
        if seconds is not None:
            patience = min(patience, max(seconds, 0.0))
        return Retries(UNCOUNTED, patience, self.outage_seconds)


@dataclass(frozen=True)
class Retry:
    """That a request failed and is sent again; what ``on_retry`` is called with.

    What ``on_retry`` raises ends the request.
    """

    error: PlauditError
    """Why: a lost connection, or a refusal that will pass."""
    delay_seconds: float
    """How long the client waits now."""
    seconds_left: float
    """When that long has passed, the client gives up."""
    attempts_left: int | None
    """How often it tries again at most; None: time alone is the bound."""


OnRetry = Callable[[Retry], None]


class Attempts:
    """The attempts at one request; asked after each failure."""

    def __init__(self, retries: Retries, *, is_repeatable: bool) -> None:
        self._retries = retries
        self._is_repeatable = is_repeatable
        self._count = 0
        self._failed_at: float | None = None
        #: Whether an attempt may have been carried out although no answer came.
        self.was_ambiguous = False

    def after(self, error: APIError | ConnectionFailedError) -> Retry | None:
        """What to do after this failure; None: give up."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        left = self._failed_at + self._retries.seconds - now
        is_busy = isinstance(error, APIError) and error.should_retry is True
        if not is_busy:  # what the service itself asks to repeat is bounded by time alone
            self._count += 1
        if self._count >= self._retries.attempts or not self._may_repeat(error):
            return None
        self.was_ambiguous |= _is_ambiguous(error)
        asked = error.retry_after if isinstance(error, APIError) else None
        delay = self._backoff() if asked is None else asked + random.uniform(0, 0.25)  # noqa: S311
        if self._retries.attempts == 1 or delay > left:
            return None
        is_counted = not is_busy and self._retries.attempts < UNCOUNTED
        attempts_left = self._retries.attempts - self._count if is_counted else None
        return Retry(error, delay, left, attempts_left)

    def _may_repeat(self, error: APIError | ConnectionFailedError) -> bool:
        if isinstance(error, ConnectionFailedError):
            return self._is_repeatable or not error.was_sent
        if error.should_retry is not None:
            return error.should_retry and (self._is_repeatable or error.status == 429)
        if error.status == 429:  # refused before anything was done
            return error.retry_after is not None or self._is_repeatable
        return self._is_repeatable and error.status in RETRIED_STATUSES

    def _backoff(self) -> float:
        """Twice as long every time; at random, so that clients do not come back all at once."""
        longest = min(FIRST_DELAY_SECONDS * 2 ** min(self._count - 1, 10), MAX_DELAY_SECONDS)
        return random.uniform(longest / 2, longest)  # noqa: S311


def retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header (a number or a date); None where there is none."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _is_ambiguous(error: APIError | ConnectionFailedError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return error.was_sent
    return error.status >= 500
