"""Comparison of entity tags."""

from __future__ import annotations

import pytest

from app.web.etags import is_match


@pytest.mark.parametrize(
    ("header", "etag", "expected"),
    [
        (None, '"a"', False),
        ('"a"', '"a"', True),
        ('"b", "a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('W/"a"', 'W/"a"', True),
        ("*", 'W/"a"', True),
        ('"b"', '"a"', False),
        ("a", '"a"', False),
        ("", '"a"', False),
    ],
)
def test_if_none_match_is_compared_weakly(header: str | None, etag: str, expected: bool) -> None:
    assert is_match(header, etag) is expected
