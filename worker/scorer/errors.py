"""The error with which a scorer rejects work."""

from __future__ import annotations

from app.domain.scoring import ScoreProblem


class ScoreRefusedError(Exception):
    """The work cannot be scored; no part of it was scored."""

    def __init__(self, problem: ScoreProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
