"""Body limits of all routes that score."""

from __future__ import annotations

from app.web.strict_route import StrictRoute

MAX_BODY_BYTES = 16 << 20


class ScoreRoute(StrictRoute):
    """Route whose body may hold many messages."""

    max_values = 200_000
