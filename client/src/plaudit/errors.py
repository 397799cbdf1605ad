"""The exceptions of the client. All are subclasses of ``PlauditError``.

Arguments of the wrong type or value raise ``TypeError`` and ``ValueError`` before anything is
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plaudit.models import ImportRead, JobRead


class PlauditError(Exception):
    """Base of all errors of this package. ``hint`` says what to do next, where that is known."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigurationError(PlauditError):
    """The client has no usable URL or API key."""


class ConnectionFailedError(PlauditError):
    """No answer: the service cannot be reached, or the connection broke off.

    ``was_sent`` is false when the request certainly did not reach the service.
    """

    def __init__(self, message: str, *, hint: str | None = None, was_sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.was_sent = was_sent


class RequestTimeoutError(ConnectionFailedError, TimeoutError):
    """The service did not answer in time."""


class UnexpectedResponseError(PlauditError):
    """The answer is not one of Plaudit's: a proxy's page, or another service's."""


@dataclass(frozen=True)
class FieldError:
    """One problem with a field of a request or with a line of an upload."""

    pointer: str
    """JSON pointer into the body; ``/query/…``, ``/path/…`` and ``/header/…`` for parameters."""
    code: str
    message: str
    hint: str


class APIError(PlauditError):
    """The service refused the request (RFC 9457).

    ``code`` is stable and listed in docs/errors.md; it is ``"unknown"`` when something between
    client and service answered instead.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, hint: str | None = None, title: str = ""
    ) -> None:
        super().__init__(detail, hint=hint)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title
        self.errors: Sequence[FieldError] = ()
        self.request_id: str | None = None
        #: Seconds after which the service wants to be asked again, where it said so.
        self.retry_after: float | None = None
        #: What the service says about repeating the request; None where it says nothing.
        self.should_retry: bool | None = None

    def __str__(self) -> str:
        lines, hint = self.explain()
        lines[0] = f"{lines[0]} [{self.status} {self.code}]"
        if hint:
            lines.append(hint)
        if self.request_id:
            lines.append(f"request_id: {self.request_id}")
        return "\n".join(lines)

    def explain(self) -> tuple[list[str], str | None]:
        """The detail, then a line for each field that it does not speak of; and the hint.

        The hint of a field stands behind it. Nothing is said twice.
        """
        lines, hints = [self.detail], {self.hint}
        for error in self.errors:
            what = f"{error.pointer}: {error.message}"
            is_said = (error.message if len(self.errors) == 1 else what) in self.detail
            if not is_said:
                lines.append(f"  {what}")
            if error.hint not in hints:
                hints.add(error.hint)
                line = 0 if is_said else -1
                lines[line] = f"{lines[line].removesuffix('.')}; {error.hint}"
        return lines, self.hint


class BadRequestError(APIError):
    """400: the request cannot be read, or asks for an unknown host."""


class UnauthorizedError(APIError):
    """401: no API key, a wrong one, or one that was revoked or has expired."""


class ForbiddenError(APIError):
    """403: the key lacks the scope that ``detail`` names."""


class NotFoundError(APIError):
    """404: nothing of this tenant has this id."""


class ConflictError(APIError):
    """409: the state of the job, dataset or adapter does not allow it."""


class TooLargeError(APIError):
    """413: more bytes than the operator allows."""


class UnsupportedMediaTypeError(APIError):
    """415: the service cannot tell what an upload is."""


class InvalidRequestError(APIError):
    """422: the request was read and refused; ``errors`` names the fields or lines."""


class RateLimitedError(APIError):
    """429: too many requests with this key."""


class QuotaExceededError(APIError):
    """429: the tenant's quota is used up; waiting alone does not help."""


class ServerError(APIError):
    """5xx: a defect, or something in front of the service failed."""


class UnavailableError(ServerError):
    """503: the service's database or a worker is away for now."""


class StorageFullError(ServerError):
    """507: the disk of the service is full. Delete data, or ask the operator."""


class WaitTimeoutError(PlauditError, TimeoutError):
    """The job did not end in the time given to ``wait``; ``job`` is its last known state."""

    def __init__(self, message: str, job: JobRead) -> None:
        super().__init__(message, hint="The job continues. Call wait again, or cancel it.")
        self.job = job


class JobFailedError(PlauditError):
    """The job has no adapter: it failed, was cancelled, or has not ended.

    ``code`` is the failure's code (docs/errors.md), or the job's status where nothing failed.
    """

    def __init__(self, message: str, job: JobRead) -> None:
        failure = job.failure
        super().__init__(message, hint=failure.hint if failure else None)
        self.job = job
        self.code = failure.code if failure else job.status


class ImportFailedError(PlauditError):
    """An import of a dataset failed or was cancelled; ``dataset_import`` is its last state."""

    def __init__(self, dataset_import: ImportRead) -> None:
        failure = dataset_import.failure
        what = f"{failure.code}: {failure.detail}" if failure else dataset_import.status
        hint = failure.hint if failure else None
        super().__init__(f"The import {dataset_import.id} ended: {what}", hint=hint)
        self.dataset_import = dataset_import


class DownloadError(PlauditError):
    """A download was not kept: its bytes are not those that the service promised."""


class DirectoryError(PlauditError):
    """The directory of a download holds other files, which would be mixed up or overwritten."""


class SignatureError(PlauditError):
    """A webhook message that this secret did not sign, or that is too old or too new."""


class ModelCardError(PlauditError):
    """An adapter without a usable scoring program in its model card."""


class MissingDependencyError(PlauditError, ImportError):
    """An optional library is not installed; the message names it and the extra that brings it."""


_CLASSES: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    415: UnsupportedMediaTypeError,
    422: InvalidRequestError,
    429: RateLimitedError,
    503: UnavailableError,
    507: StorageFullError,
}


def error_class(status: int, code: str) -> type[APIError]:
    """The class of an error by its status, and by its code where a status has two meanings."""
    if code == "quota_exceeded":
        return QuotaExceededError
    return _CLASSES.get(status, ServerError if status >= 500 else APIError)
