"""How the trainer gives up: one exception that carries a stable code."""

from __future__ import annotations

from app.domain.lifecycle import FailureCode


class TrainerError(Exception):
    """A run or an inspection cannot go on; ``detail`` says what was found and what to do.

    ``step`` is the training step that failed, or the last one done where none is to blame.
    """

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.step = step


class Stopped(Exception):
    """The supervisor asked for an end; what there is to go on from has been said."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def unsupported(detail: str) -> TrainerError:
    """A base model that cannot become a reward model."""
    return TrainerError(FailureCode.MODEL_UNSUPPORTED, detail)
