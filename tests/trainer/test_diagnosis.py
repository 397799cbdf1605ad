from __future__ import annotations

import errno

import pytest
import torch

from app.domain.lifecycle import FailureCode
from worker.ipc.order import WorkOrder
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


@pytest.mark.parametrize(
    ("number", "path", "code"),
    [
        (errno.EACCES, "/models/tiny/config.json", FailureCode.MODEL_UNSUPPORTED),
        (errno.EIO, "/models/tiny/config.json", FailureCode.HUB_UNAVAILABLE),
        (errno.EMFILE, "/models/tiny/config.json", FailureCode.HOST_ERROR),
        (errno.EACCES, "/models/tiny-2/config.json", FailureCode.HOST_ERROR),
    ],
)
def test_error_of_the_system_about_the_base_model_is_not_of_the_machine(
    number: int, path: str, code: FailureCode
) -> None:
    order = WorkOrder(
        action="train", model_dir="/models/tiny", model_name="tiny", watchdog_seconds=1,
        revision=None, chat_template=None,
    )  # fmt: skip
    assert diagnose(OSError(number, "no", path), order).code is code
