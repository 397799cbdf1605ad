from __future__ import annotations

import errno

import pytest
import torch

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError
from worker.trainer.diagnosis import diagnose


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), FailureCode.CUDA_OOM),
        (RuntimeError("CUDA error: an illegal memory access"), FailureCode.CUDA_ERROR),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureCode.OUT_OF_MEMORY),
        (MemoryError(), FailureCode.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), FailureCode.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), FailureCode.DISK_FULL),
        (RuntimeError("basic_ios::clear: iostream error"), FailureCode.DISK_FULL),
        (OSError(errno.EIO, "Input/output error"), FailureCode.HOST_ERROR),
        (RuntimeError("I/O error: Read-only file system (os error 30)"), FailureCode.HOST_ERROR),
        (OSError("tiny does not appear to have a file named x"), FailureCode.INTERNAL),
        (TrainerError(FailureCode.NAN_LOSS, "unchanged"), FailureCode.NAN_LOSS),
        (KeyError("anything else"), FailureCode.INTERNAL),
    ],
    ids=lambda value: str(value)[:30],
)
def test_exception_gets_the_closest_failure_code(error: Exception, code: FailureCode) -> None:
    assert diagnose(error).code is code
