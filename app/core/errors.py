"""Errors that a caller can meet; ``app.web.problem_details`` turns them into HTTP responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with one field: where (JSON pointer), what, and what to do next."""

    loc: str
    code: str
    message: str
    hint: str


class ServiceError(Exception):
    """A defect of the service.

    Subclasses are refusals with a stable, documented ``code``; the detail says what happened.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    #: What whoever meets this code does next; with the docstring it makes docs/errors.md.
    next_step: ClassVar[str] = "Try again; if it stays, report the request_id to the operator."
    #: False where no HTTP client ever meets it: the operator at the start, a worker in a job.
    is_answered: ClassVar[bool] = True

    def __init__(
        self, detail: str, *, hint: str | None = None, problems: Sequence[FieldProblem] = ()
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.problems = tuple(problems)


class NotFoundError(ServiceError):
    """The id names nothing that this tenant owns."""

    code = "not_found"
    status = 404
    title = "Not found"
    next_step = "Check the id and the key: another tenant's things look as if they were not there."


class ConflictError(ServiceError):
    """The resource's state does not allow the act."""

    code = "conflict"
    status = 409
    title = "Conflict with the current state"
    next_step = (
        "Look at the resource's present state; the same request stays refused until it changes."
    )


class InvalidError(ServiceError):
    """The request was understood and refused; ``problems`` names the fields."""

    code = "invalid_request"
    status = 422
    title = "The request is not valid"
    next_step = "Correct what `errors` names, each with a hint, and send it again."


class InvalidSpecError(InvalidError):
    """A job spec that cannot be trained as written."""

    code = "invalid_spec"
    title = "The job spec is not valid"


class TooLargeError(ServiceError):
    """More bytes than the operator allows."""

    code = "too_large"
    status = 413
    title = "Too large"
    next_step = "Send less, or ask the operator for a higher limit."


class UnsupportedMediaError(ServiceError):
    """A content type that this route does not read."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"
    next_step = "Name one of the content types that the route's document lists."


class HostError(ServiceError):
    """The request asks for a host that this service is not known by."""

    code = "unknown_host"
    status = 400
    title = "Not a name of this service"
    next_step = (
        "Use the address that the operator gave, or have its name added to the trusted hosts."
    )


class UnauthorizedError(ServiceError):
    """No key, a wrong one, or an expired one."""

    code = "unauthorized"
    status = 401
    title = "Authentication needed"
    next_step = "Send `Authorization: Bearer plk_…` with a key that lives; an admin makes keys."


class ForbiddenError(ServiceError):
    """The key is good, its scopes do not cover the act."""

    code = "forbidden"
    status = 403
    title = "Not allowed"
    next_step = "Use a key that has the scope that `detail` names."


class QuotaError(ServiceError):
    """The tenant's quota is used up; retrying does not help until something ends."""

    code = "quota_exceeded"
    status = 429
    title = "Quota exceeded"
    next_step = "Wait until something ends, delete what is not needed, or ask for a higher quota."


class RateLimitedError(ServiceError):
    """Asked too often; the same request is good again ``retry_after_seconds`` later."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"
    next_step = "Wait as long as `Retry-After` says; poll with `wait` instead of in a loop."

    def __init__(self, detail: str, retry_after_seconds: float) -> None:
        super().__init__(detail, hint="Wait as long as Retry-After says.")
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ServiceError):
    """Something this service needs is away; try again later."""

    code = "unavailable"
    status = 503
    title = "Temporarily unavailable"
    next_step = "Try again after `Retry-After`, with the same Idempotency-Key where there is one."
