"""Errors that a caller can meet. ``app.web.problem_details`` turns them into HTTP responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldProblem:
    """One invalid field: its JSON pointer, what is wrong with it, and what to do next."""

    loc: str
    code: str
    message: str
    hint: str


class ServiceError(Exception):
    """An unexpected error inside the service.

    Each subclass is an expected error with a stable, documented ``code``. ``detail`` says what
    happened this time.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    #: What a caller who gets this code should do. docs/errors.md shows it next to the docstring.
    next_step: ClassVar[str] = (
        "Retry the request. If the error persists, send the `request_id` to the operator."
    )
    #: False if the error never reaches an HTTP client: it stops the start, or it fails a job.
    is_public: ClassVar[bool] = True

    def __init__(
        self, detail: str, *, hint: str | None = None, problems: Sequence[FieldProblem] = ()
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.problems = tuple(problems)


class NotFoundError(ServiceError):
    """This tenant has no resource at this address."""

    code = "not_found"
    title = "Not found"
    next_step = (
        "Check the id and the API key: resources of other tenants are reported as not found."
    )


class ConflictError(ServiceError):
    """The current state of the resource does not allow the operation."""

    code = "conflict"
    title = "Conflict with the current state"
    next_step = (
        "Read the current state of the resource. The same request fails until the state changes."
    )


class PreconditionError(ServiceError):
    """The state that the request depends on has changed."""

    code = "precondition_failed"
    title = "The precondition does not hold"
    next_step = "Read the current state, and decide whether to send the request for it."


class InvalidError(ServiceError):
    """The request is not valid; `errors` names the fields."""

    code = "invalid_request"
    title = "The request is not valid"
    next_step = "Correct the fields named in `errors`, each of which has a hint, and send it again."


class InvalidSpecError(InvalidError):
    """The job spec cannot be trained as written."""

    code = "invalid_spec"
    title = "The job spec is not valid"


class TooLargeError(ServiceError):
    """The body exceeds the operator's size limit."""

    code = "too_large"
    title = "Too large"
    next_step = "Send less data, or ask the operator for a higher limit."


class UnsupportedMediaError(ServiceError):
    """The route does not accept this content type."""

    code = "unsupported_media_type"
    title = "Unsupported media type"
    next_step = "Send one of the content types that the API reference lists for this route."


class UploadStalledError(ServiceError):
    """The client stopped sending data."""

    code = "upload_stalled"
    title = "The upload stalled"
    next_step = "Upload again over a stable connection."


class RangeError(ServiceError):
    """The requested range lies outside the content."""

    code = "range_not_satisfiable"
    title = "Range not satisfiable"
    next_step = "Request a range inside the content; a HEAD request returns its size."


class HostError(ServiceError):
    """The Host header is not in the operator's list of trusted hosts."""

    code = "unknown_host"
    title = "Unknown host"
    next_step = "Use the address that the operator gave you, or ask for the host to be trusted."


class UnauthorizedError(ServiceError):
    """The API key is missing, wrong, expired or revoked."""

    code = "unauthorized"
    title = "Authentication required"
    next_step = "Send `Authorization: Bearer plk_…` with a valid key; an admin can create one."


class ForbiddenError(ServiceError):
    """The API key is valid but lacks the scope for this operation."""

    code = "forbidden"
    title = "Not allowed"
    next_step = "Use a key with the scope that `detail` names."


class QuotaError(ServiceError):
    """The tenant's quota is used up. Retrying does not help until some of it is freed."""

    code = "quota_exceeded"
    title = "Quota exceeded"
    next_step = "Wait for a job to end, delete data you do not need, or ask for a higher quota."


class RateLimitedError(ServiceError):
    """Too many requests; the same request succeeds after `Retry-After` seconds."""

    code = "rate_limited"
    title = "Too many requests"
    next_step = (
        "Wait for `Retry-After` seconds. To follow a job, use `wait` instead of a poll loop."
    )

    def __init__(self, detail: str, retry_after_seconds: float) -> None:
        super().__init__(detail, hint="Wait for the number of seconds that Retry-After gives.")
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ServiceError):
    """Something that the service depends on is unavailable."""

    code = "unavailable"
    title = "Temporarily unavailable"
    next_step = "Retry after `Retry-After` seconds, with the same Idempotency-Key if you sent one."
