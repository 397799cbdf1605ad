"""A comparison of one prompt is shown without an interval."""

from __future__ import annotations

import pytest

from app.cli.evaluation_display import _interval


@pytest.mark.parametrize(
    ("interval", "text"), [((0.25, 0.75), "50.0 % (25.0 % to 75.0 %)"), (None, "50.0 %")]
)
def test_figure_without_an_interval_names_none(
    interval: tuple[float, float] | None, text: str
) -> None:
    assert _interval({"value": 0.5, "interval": interval}) == text
