"""What can go wrong for a caller. HTTP is not known here; ``app.problems`` translates."""

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
    hint: str | None = None


class ServiceError(Exception):
    """A refusal with a stable, documented ``code``; the detail says what to do next."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

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


class ConflictError(ServiceError):
    """The resource's state does not allow the act."""

    code = "conflict"
    status = 409
    title = "Conflict with the current state"


class InvalidError(ServiceError):
    """The request was understood and refused; ``problems`` names the fields."""

    code = "invalid_request"
    status = 422
    title = "The request is not valid"


class InvalidSpecError(InvalidError):
    """A job spec that cannot be trained as written."""

    code = "invalid_spec"
    title = "The job spec is not valid"


class TooLargeError(ServiceError):
    """More bytes than the operator allows."""

    code = "too_large"
    status = 413
    title = "Too large"


class UnsupportedMediaError(ServiceError):
    """A content type that this route does not read."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class HostError(ServiceError):
    """The request asks for a host that this service is not known by."""

    code = "unknown_host"
    status = 400
    title = "Not a name of this service"


class UnauthorizedError(ServiceError):
    """No key, a wrong one, or an expired one."""

    code = "unauthorized"
    status = 401
    title = "Authentication needed"


class ForbiddenError(ServiceError):
    """The key is good, its scopes do not cover the act."""

    code = "forbidden"
    status = 403
    title = "Not allowed"


class QuotaError(ServiceError):
    """The tenant's quota is used up; retrying does not help until something ends."""

    code = "quota_exceeded"
    status = 429
    title = "Quota exceeded"


class RateLimitedError(ServiceError):
    """Asked too often; the same request is good again ``retry_after_seconds`` later."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after_seconds: float) -> None:
        super().__init__(detail, hint="Wait as long as Retry-After says.")
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ServiceError):
    """Something this service needs is away; try again later."""

    code = "unavailable"
    status = 503
    title = "Temporarily unavailable"
