"""Decides whether a failed request is retried, and after which delay."""

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
#: No limit on the number of attempts: only time is limited.
UNCOUNTED = 2**31
#: Statuses after which requests that are safe to repeat are retried.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """Limits of retries.

    Only requests that are safe to repeat are retried: reads, idempotent changes, and creations with
    an idempotency key. ``Retries(attempts=1)`` disables retries.
    """

    attempts: int = 5
    """Maximum number of times that a request is sent."""
    seconds: float = 120.0
    """Seconds after its first failure during which a request is retried. A longer ``Retry-After``
    ends the retries."""
    outage_seconds: float = 600.0
    """Seconds for which ``wait``, ``events``, ``logs`` and downloads retry while the service cannot
    be reached, without a limit on attempts. 0: the limits of other requests apply."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.seconds < 0 or self.outage_seconds < 0:
            raise ValueError("Retries must have at least one attempt and no negative times.")

    def during_outage(self, seconds: float | None = None) -> Retries:
        """Return limits for long operations: only time is limited, to ``seconds`` if given."""
        if self.attempts == 1 or not self.outage_seconds:
            return self
        limit = max(self.outage_seconds, self.seconds)
        if seconds is not None:
            limit = min(limit, max(seconds, 0.0))
        return Retries(UNCOUNTED, limit, self.outage_seconds)


@dataclass(frozen=True)
class Retry:
    """A retry that is about to happen; the argument of ``on_retry``.

    An exception raised by ``on_retry`` ends the request.
    """

    error: PlauditError
    """The failure: a lost connection, or a temporary error of the service."""
    delay_seconds: float
    """Seconds until the retry."""
    seconds_left: float
    """Seconds until the client gives up."""
    attempts_left: int | None
    """Maximum number of further attempts; None: only time is limited."""


OnRetry = Callable[[Retry], None]


class Attempts:
    """Counts the attempts of one request and decides after each failure whether to retry."""

    def __init__(self, retries: Retries, *, is_repeatable: bool) -> None:
        self._retries = retries
        self._is_repeatable = is_repeatable
        self._count = 0
        self._failed_at: float | None = None
        #: Whether the service may have carried out an attempt whose response was lost.
        self.was_ambiguous = False

    def after(self, error: APIError | ConnectionFailedError) -> Retry | None:
        """Return the retry after this failure, or None to give up."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        left = self._failed_at + self._retries.seconds - now
        is_busy = isinstance(error, APIError) and error.should_retry is True
        if not is_busy:  # retries that the service asks for are limited by time only
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
        if error.status == 429:  # rejected before the request had any effect
            return error.retry_after is not None or self._is_repeatable
        return self._is_repeatable and error.status in RETRIED_STATUSES

    def _backoff(self) -> float:
        """Return an exponential delay in seconds, randomised so that clients do not retry at the
        same time."""
        longest = min(FIRST_DELAY_SECONDS * 2 ** min(self._count - 1, 10), MAX_DELAY_SECONDS)
        return random.uniform(longest / 2, longest)  # noqa: S311


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which is a number or a date; None if it is
    absent or invalid."""
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
