"""Why a base model could not be had. Each fault knows the failure code that its job ends with."""

from __future__ import annotations

from typing import ClassVar

from app.core.errors import ServiceError
from app.domain.lifecycle import FailureCode


class BaseModelError(ServiceError):
    """A base model could not be fetched or is not fit to load."""

    failure: ClassVar[FailureCode] = FailureCode.INTERNAL
    is_answered = False


class ModelNotFoundError(BaseModelError):
    """The source has no such repository, revision, package or directory."""

    code = "model_not_found"
    status = 422
    title = "The base model's source does not exist"
    failure = FailureCode.MODEL_NOT_FOUND


class GatedModelError(BaseModelError):
    """The hub refuses the operator's token, or there is none."""

    code = "gated_no_access"
    status = 422
    title = "No access to the base model"
    failure = FailureCode.GATED_NO_ACCESS


class BadSnapshotError(BaseModelError):
    """The files are there, and loading them is refused: unsafe, damaged, incomplete, too large."""

    code = "model_unsupported"
    status = 422
    title = "The base model's files are refused"
    failure = FailureCode.MODEL_UNSUPPORTED


class SourceUnavailableError(BaseModelError):
    """Hub or package index is away or broke off; trying again can help."""

    code = "hub_unavailable"
    status = 503
    title = "The base model's source is away"
    failure = FailureCode.HUB_UNAVAILABLE


class DiskFullError(BaseModelError):
    """The model cache has no room for the model."""

    code = "disk_full"
    status = 507
    title = "No room for the base model"
    failure = FailureCode.DISK_FULL
