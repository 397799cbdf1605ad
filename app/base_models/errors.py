"""Why a base model cannot be used; each class names the failure code of the job that needs it."""

from __future__ import annotations

from typing import ClassVar

from app.core.errors import ServiceError
from app.domain.lifecycle import FailureCode
from app.domain.unreadable_files import failure_of_unreadable_model


class BaseModelError(ServiceError):
    """The base model could not be fetched or must not be loaded."""

    failure: ClassVar[FailureCode] = FailureCode.INTERNAL
    is_public = False


class ModelNotFoundError(BaseModelError):
    """The source has no such repository, revision, package or directory."""

    code = "model_not_found"
    title = "The source of the base model does not exist"
    failure = FailureCode.MODEL_NOT_FOUND


class GatedModelError(BaseModelError):
    """The hub rejects the operator's token, or no token is set."""

    code = "gated_no_access"
    title = "No access to the base model"
    failure = FailureCode.GATED_NO_ACCESS


class BadSnapshotError(BaseModelError):
    """The files exist but must not be loaded: unsafe, damaged, incomplete or too large."""

    code = "model_unsupported"
    title = "The files of the base model are rejected"
    failure = FailureCode.MODEL_UNSUPPORTED


class SourceUnavailableError(BaseModelError):
    """The hub or package index is unreachable or closed the connection. A retry may succeed."""

    code = "hub_unavailable"
    title = "The source of the base model is unavailable"
    failure = FailureCode.HUB_UNAVAILABLE


class DiskFullError(BaseModelError):
    """The model cache has no space for the base model."""

    code = "disk_full"
    title = "No space for the base model"
    failure = FailureCode.DISK_FULL


def unreadable_model(error: OSError, name: str) -> BaseModelError | None:
    """Return the failure for an operating system error while reading a model's files.

    Return None if the machine caused the error, not the model.
    """
    code = failure_of_unreadable_model(error.errno)
    if code is None:
        return None
    detail = f"The files of {name} cannot be read: {error.strerror}."
    if code == SourceUnavailableError.failure:
        return SourceUnavailableError(detail)
    return BadSnapshotError(detail)
