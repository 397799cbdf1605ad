"""Map an exception to a failure code."""

from __future__ import annotations

import errno

import torch

from app.domain.lifecycle import FailureCode
from app.domain.unreadable_files import failure_of_unreadable_model
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import CPU_OUT_OF_MEMORY, TrainerError

_CODES_BY_TEXT = {
    "No space left on device": FailureCode.DISK_FULL,
    # torch.save reports a truncated write with these texts; the system's reason is lost by then.
    ". unexpected pos ": FailureCode.DISK_FULL,
    "basic_ios::clear: iostream error": FailureCode.DISK_FULL,
    "PytorchStreamWriter failed writing": FailureCode.DISK_FULL,
    "Read-only file system": FailureCode.HOST_ERROR,
    "Input/output error": FailureCode.HOST_ERROR,
    CPU_OUT_OF_MEMORY: FailureCode.OUT_OF_MEMORY,
    "CUDA out of memory": FailureCode.CUDA_OOM,
    "CUDA error": FailureCode.CUDA_ERROR,
    "CUBLAS_STATUS": FailureCode.CUDA_ERROR,
    "cuDNN error": FailureCode.CUDA_ERROR,
}


def diagnose(error: BaseException, order: WorkOrder | None = None) -> TrainerError:
    """Return ``error`` if it has a code, otherwise an error with the closest one or "internal".

    An operating system error caused by the base model's files gets a code of the base model.
    """
    if isinstance(error, TrainerError):
        return error
    detail = f"{type(error).__name__}: {error}"[:8000]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return TrainerError(FailureCode.CUDA_OOM, detail)
    if isinstance(error, MemoryError):
        return TrainerError(FailureCode.OUT_OF_MEMORY, detail)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainerError(FailureCode.DISK_FULL, detail)
    # Libraries raise OSError without an errno for an invalid model.
    if isinstance(error, OSError) and error.errno:
        if order is not None and str(error.filename).startswith(f"{order.model_dir}/"):
            code = failure_of_unreadable_model(error.errno)
            if code is not None:
                what = f"the files of {order.model_name} cannot be read: {error.strerror}"
                return TrainerError(code, what)
        return TrainerError(FailureCode.HOST_ERROR, detail)
    for text, code in _CODES_BY_TEXT.items():
        if text in str(error):
            return TrainerError(code, detail)
    return TrainerError(FailureCode.INTERNAL, detail)
