"""What all routes that score have in common: bounds of a request's body."""

from __future__ import annotations

from app.web.strict_route import StrictRoute

MAX_BODY_BYTES = 16 << 20


class ScoreRoute(StrictRoute):
    """Route whose body may hold many messages."""

    max_values = 200_000
