"""Errors as RFC 9457 ``application/problem+json``, the only error format of the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, Field

from app.core.errors import (
    ConflictError,
    ForbiddenError,
    HostError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    QuotaError,
    RangeError,
    RateLimitedError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
    UploadStalledError,
)
from app.storage.free_space import StorageFullError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

#: The HTTP status of each family of errors: a subclass has the status of its nearest ancestor here.
STATUSES: Mapping[type[ServiceError], int] = {
    HostError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    UploadStalledError: 408,
    ConflictError: 409,
    PreconditionError: 412,
    TooLargeError: 413,
    UnsupportedMediaError: 415,
    RangeError: 416,
    InvalidError: 422,
    QuotaError: 429,
    RateLimitedError: 429,
    ServiceError: 500,
    UnavailableError: 503,
    StorageFullError: 507,
}


class ProblemField(BaseModel):
    """One invalid field."""

    loc: str = Field(description="JSON pointer into the body, or the name of the parameter.")
    code: str
    message: str
    hint: str = Field(description="What to do next.")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="A URI that identifies the kind of error.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable identifier of the error; programs should switch on it.")
    instance: str
    request_id: str
    hint: str | None = None
    errors: list[ProblemField] = []


class ProblemType(BaseModel):
    """The meaning of an error code."""

    code: str
    status: int
    title: str
    when: str
    next_step: str = Field(description="What to do next.")


#: Errors of the framework, under the codes that the exception handlers give them, and those of the
#: server (app/web/http_protocol.py), which refuses a request before the application sees it.
_FRAMEWORK = (
    ProblemType(
        code="bad_request",
        status=400,
        title="Bad Request",
        when="The request is not valid HTTP.",
        next_step="Correct the request; a multipart body must name its boundary.",
    ),
    ProblemType(
        code="method_not_allowed",
        status=405,
        title="Method Not Allowed",
        when="The route does not support this method.",
        next_step="Use one of the methods in the `Allow` header.",
    ),
    ProblemType(
        code="request_timeout",
        status=408,
        title="Request Timeout",
        when="The head did not arrive within 15 s, or the body is slower than 8 KiB in 15 s.",
        next_step="Send the request again over a faster connection.",
    ),
    ProblemType(
        code="header_too_large",
        status=431,
        title="Request Header Fields Too Large",
        when="The request line and headers exceed 32 KiB or 100 fields.",
        next_step="Send fewer or shorter headers, or a shorter URL.",
    ),
    ProblemType(
        code="too_many_connections",
        status=503,
        title="Service Unavailable",
        when="The server has no free connection.",
        next_step="Close connections that you do not need; retry after `Retry-After` seconds.",
    ),
)


def status_of(error: type[ServiceError]) -> int:
    """Return the HTTP status of an error class."""
    return next(STATUSES[family] for family in error.__mro__ if family in STATUSES)


def problem_types() -> list[ProblemType]:
    """Return every public error code, ordered by status."""
    found = {error.code: error for error in subclasses(ServiceError) if error.is_public}
    types = [
        ProblemType(
            code=error.code,
            status=status_of(error),
            title=error.title,
            when=" ".join((error.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`"),
            next_step=error.next_step,
        )
        for error in found.values()
    ]
    return sorted([*types, *_FRAMEWORK], key=lambda problem: (problem.status, problem.code))


def error_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses=`` of a route that can fail with ``errors``, by status."""
    found: dict[int, list[type[ServiceError]]] = {}
    for error in errors:
        found.setdefault(status_of(error), []).append(error)
    return {
        status: {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in group),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, group in found.items()
    }


def subclasses(error: type[ServiceError]) -> Iterable[type[ServiceError]]:
    """Yield an error class and all of its subclasses that have been imported."""
    yield error
    for child in error.__subclasses__():
        yield from subclasses(child)


def problem_response(
    request: Request,
    error: ServiceError,
    *,
    status: int | None = None,
    code: str | None = None,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response for an error; the keywords override values of the error's class."""
    code = code or error.code
    problem = Problem(
        type=f"{request.app.state.settings.public_url}/problems/{code}",
        title=title or error.title,
        status=status or status_of(type(error)),
        detail=error.detail,
        code=code,
        instance=request.scope["path"],
        request_id=request.scope.get("request_id", ""),
        hint=error.hint,
        errors=[
            ProblemField(loc=p.loc, code=p.code, message=p.message, hint=p.hint)
            for p in error.problems
        ],
    )
    content = problem.model_dump(mode="json", exclude_none=True)
    media_type = MEDIA_TYPE
    # Routes that stand in for those of another server have more fields, which its clients read.
    if (error_fields := getattr(request.scope.get("route"), "error_fields", None)) is not None:
        content |= error_fields(problem)
        media_type = "application/json"
    return Response(
        orjson.dumps(content),
        status_code=problem.status,
        media_type=media_type,
        headers={**_advice_headers(problem.status), **(headers or {})},
    )


def _advice_headers(status: int) -> dict[str, str]:
    """Return the headers that tell a client whether and when to retry."""
    match status:
        case 401:
            return {"WWW-Authenticate": 'Bearer realm="plaudit"'}
        case 409 | 429 | 507:
            return {"x-should-retry": "false"}
        case 503:
            return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}
