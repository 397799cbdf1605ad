"""Delays between retries."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.backoff import exponential_delays, full_jitter


@given(
    retries=st.integers(0, 10**6),
    base=st.floats(0.001, 1e6),
    ratio=st.floats(1, 1e6),
    factor=st.floats(1, 10),
)
def test_jitter_stays_below_its_ceiling(
    retries: int, base: float, ratio: float, factor: float
) -> None:
    delay = full_jitter(retries, base=base, maximum=base * ratio, factor=factor)
    assert 0 <= delay <= base * ratio
    if retries < 10:
        assert delay <= base * factor**retries * (1 + 1e-9)


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_jitter_is_drawn_from_the_whole_range(retries: int) -> None:
    ceiling = min(100, 10 * 2**retries)
    delays = sorted(full_jitter(retries, base=10, maximum=100) for _ in range(1000))
    assert delays[0] < ceiling / 10
    assert delays[-1] > ceiling * 9 / 10


def test_exponential_delays_double_up_to_the_maximum() -> None:
    assert list(islice(exponential_delays(base=0.2, maximum=1), 5)) == [0.2, 0.4, 0.8, 1, 1]
