"""Exponential backoff, with and without jitter."""

from __future__ import annotations

import random
from collections.abc import Iterator


def full_jitter(retries: int, *, base: float, maximum: float, factor: float = 2.0) -> float:
    """Return a delay drawn uniformly from 0 to min(maximum, base · factor^retries).

    Full jitter spreads retries best (Brooker, "Exponential Backoff and Jitter", AWS 2015). The
    delay has the unit of ``base`` and ``maximum``; ``retries`` counts from 0.
    """
    # 2 ** 64 exceeds every ratio of maximum to base; more would overflow a float.
    ceiling = min(maximum, base * factor ** min(retries, 64))
    return random.uniform(0, ceiling)  # noqa: S311 - spreads load, protects nothing


def exponential_delays(*, base: float, maximum: float) -> Iterator[float]:
    """Yield base, 2 · base, 4 · base, … up to ``maximum``, which repeats without end."""
    delay = base
    while True:
        yield delay
        delay = min(delay * 2, maximum)
