"""Exceptions that carry a stable failure code from the reward model's code to the job."""

from __future__ import annotations

import torch

from app.domain.lifecycle import FailureCode

#: Text of the error of torch's CPU allocator, which has no exception class.
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"


class TrainerError(Exception):
    """A task fails with ``code``; ``detail`` tells the user what was found and what to do next.

    ``step`` is the training step that failed, or else the last completed step.
    """

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.step = step

    def __reduce__(self) -> tuple[type[TrainerError], tuple[FailureCode, str, int | None]]:
        """Support pickling: by default exceptions are restored from their message only."""
        return TrainerError, (self.code, self.detail, self.step)


class StoppedError(Exception):
    """The supervisor requested a stop; the latest checkpoint has been reported."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def unsupported_model(detail: str) -> TrainerError:
    """Return the error for a base model that cannot become a reward model."""
    return TrainerError(FailureCode.MODEL_UNSUPPORTED, detail)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the machine ran out of memory: a smaller batch may help."""
    return isinstance(error, torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)
