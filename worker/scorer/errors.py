"""The error with which a scorer rejects work."""

from __future__ import annotations

from app.domain.scoring import ScoreProblem


class ScoreRefusedError(Exception):
    """The work cannot be scored; no part of it was scored."""

    def __init__(self, problem: ScoreProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(detail: str) -> ScoreRefusedError:
    """Return the refusal of an adapter that cannot be used."""
    return ScoreRefusedError(ScoreProblem(code="adapter_unusable", detail=detail))


def not_verified(detail: str) -> ScoreRefusedError:
    """Return the refusal of an adapter that is not the one that was trained."""
    return ScoreRefusedError(ScoreProblem(code="adapter_not_verified", detail=detail))
