"""The exceptions of the client. All are subclasses of ``PlauditError``.

Arguments of the wrong type or value raise ``TypeError`` and ``ValueError`` before anything is
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plaudit.models import ImportRead, JobRead


class PlauditError(Exception):
    """Base class of all errors of this package. ``hint`` says what to do next, or is None."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The arguments of the subclasses differ, so that pickle cannot call them: processes of a
        # pool pass errors on as pickles.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[PlauditError], arguments: tuple[Any, ...]) -> PlauditError:
    return kind.__new__(kind, *arguments)


class InvalidArgumentError(PlauditError, ValueError):
    """An argument cannot be part of a request; nothing was sent."""


class ConfigurationError(PlauditError):
    """The URL or the API key of the client is missing or invalid."""


class ConnectionFailedError(PlauditError):
    """The service cannot be reached, or the connection was lost before the response was complete.

    ``was_sent`` is False if the request cannot have reached the service.
    """

    def __init__(self, message: str, *, hint: str | None = None, was_sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.was_sent = was_sent


class RequestTimeoutError(ConnectionFailedError, TimeoutError):
    """The service did not respond in time."""


class UnexpectedResponseError(PlauditError):
    """The response is not from Plaudit, but for example from a proxy or another service."""


@dataclass(frozen=True)
class FieldError:
    """One problem with a field of a request or with a line of an upload."""

    pointer: str
    """JSON pointer into the body; parameters begin with ``/query/``, ``/path/`` or ``/header/``."""
    code: str
    message: str
    hint: str


class APIError(PlauditError):
    """The service refused the request (RFC 9457).

    ``code`` is stable and listed in docs/errors.md. It is ``"unknown"`` if the response came from
    something between client and service, such as a proxy.
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
        #: Seconds to wait before a retry (``Retry-After``); None if the service sent none.
        self.retry_after: float | None = None
        #: Whether a retry can help (``x-should-retry``); None if the service did not say.
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
        """Return the lines of the message, and the hint of the request or None.

        The first line is the detail; a line with its hint follows for each field that the detail
        does not mention. Texts are not repeated.
        """
        lines, hints = [self.detail], {self.hint}
        for error in self.errors:
            what = f"{error.pointer}: {error.message}"
            is_in_detail = (error.message if len(self.errors) == 1 else what) in self.detail
            if not is_in_detail:
                lines.append(f"  {what}")
            if error.hint not in hints:
                hints.add(error.hint)
                line = 0 if is_in_detail else -1
                lines[line] = f"{lines[line].removesuffix('.')}; {error.hint}"
        return lines, self.hint


class BadRequestError(APIError):
    """400: the request cannot be parsed, or its ``Host`` header is not accepted."""


class UnauthorizedError(APIError):
    """401: the API key is missing, wrong, revoked or expired."""


class ForbiddenError(APIError):
    """403: the key lacks the scope that ``detail`` names."""


class NotFoundError(APIError):
    """404: this tenant has no resource with this id."""


class ConflictError(APIError):
    """409: the state of the job, dataset or adapter does not allow the operation."""


class TooLargeError(APIError):
    """413: the request has more bytes than the operator allows."""


class UnsupportedMediaTypeError(APIError):
    """415: the service cannot detect the format of an upload."""


class InvalidRequestError(APIError):
    """422: the request contains invalid values; ``errors`` names the fields or lines."""


class RateLimitedError(APIError):
    """429: too many requests with this API key; see ``retry_after``."""


class QuotaExceededError(APIError):
    """429: the tenant's quota is used up; waiting alone does not help."""


class ServerError(APIError):
    """5xx: the service, or a proxy in front of it, failed."""


class UnavailableError(ServerError):
    """503: the service's database or a worker is temporarily unavailable."""


class StorageFullError(ServerError):
    """507: the disk of the service is full. Delete data, or ask the operator."""


class WaitTimeoutError(PlauditError, TimeoutError):
    """The job did not end within the timeout of ``wait``; ``job`` is its last known state."""

    def __init__(self, message: str, job: JobRead) -> None:
        super().__init__(message, hint="The job continues. Call wait again, or cancel it.")
        self.job = job


class JobFailedError(PlauditError):
    """The job did not succeed: it failed, was cancelled, or has not ended.

    ``code`` is the code of the failure (docs/errors.md), or the status of a job that did not fail.
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
        super().__init__(f"The import {dataset_import.id} did not succeed: {what}", hint=hint)
        self.dataset_import = dataset_import


class DownloadError(PlauditError):
    """A downloaded file has the wrong size, checksum or name; it is not kept."""


class DirectoryError(PlauditError):
    """The directory of a download contains other files, which could be mixed up or overwritten."""


class SignatureError(PlauditError):
    """A webhook message is not signed with this secret, or its timestamp is out of tolerance."""


class ModelCardError(PlauditError):
    """The model card of an adapter has no scoring program, or one that is not safe to run."""


class MissingDependencyError(PlauditError, ImportError):
    """An optional library is not installed; the message names it and the extra to install."""


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
    """Return the class for a status; the code decides where a status has two meanings."""
    if code == "quota_exceeded":
        return QuotaExceededError
    return _CLASSES.get(status, ServerError if status >= 500 else APIError)
