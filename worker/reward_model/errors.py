"""Exceptions that carry a stable failure code from the reward model's code to the job."""

from __future__ import annotations

import torch

from app.domain.lifecycle import FailureCode

#: Text of the error of torch's allocator for the CPU, which has no type of its own.
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"


class TrainerError(Exception):
    """A task fails with ``code``; ``detail`` tells the user what was found and what to do next.

    ``step`` is the training step that failed, or the last completed one when no step is to blame.
    """

    def __init__(self, code: FailureCode, detail: str, step: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.step = step

    def __reduce__(self) -> tuple[type[TrainerError], tuple[FailureCode, str, int | None]]:
        """Let processes pass the error on; exceptions are unpickled from their message alone."""
        return TrainerError, (self.code, self.detail, self.step)


class StoppedError(Exception):
    """The supervisor asked the task to stop; the latest checkpoint has been reported."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def unsupported_model(detail: str) -> TrainerError:
    """Return the error for a base model that cannot become a reward model."""
    return TrainerError(FailureCode.MODEL_UNSUPPORTED, detail)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left, so that a smaller batch may help."""
    return isinstance(error, torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)
