"""Every error leaves as RFC 9457 ``application/problem+json``, in one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, Field

from app.core.errors import ServiceError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5


class ProblemField(BaseModel):
    """One thing wrong with one field."""

    loc: str = Field(description="JSON pointer into the body, or the parameter's name.")
    code: str
    message: str
    hint: str = Field(description="What to do next.")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="A URI that names the kind of error.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; switch on it.")
    instance: str
    request_id: str
    hint: str | None = None
    errors: list[ProblemField] = []


class ProblemType(BaseModel):
    """What a code means, wherever it comes from."""

    code: str
    status: int
    title: str
    when: str
    next_step: str = Field(description="What to do about it.")


#: Refusals of the framework's own, under the codes that the handlers give them.
_FRAMEWORK = (
    ProblemType(
        code="bad_request",
        status=400,
        title="Bad Request",
        when="The request is no HTTP that this service can read.",
        next_step="Correct the request; a multipart body names its boundary.",
    ),
    ProblemType(
        code="method_not_allowed",
        status=405,
        title="Method Not Allowed",
        when="The address is there and does not know this method.",
        next_step="Use one of the methods that the `Allow` header names.",
    ),
)


def problem_types() -> list[ProblemType]:
    """Every code of a problem, by status."""
    found = {error.code: error for error in _family(ServiceError) if error.is_answered}
    types = [
        ProblemType(
            code=error.code,
            status=error.status,
            title=error.title,
            when=" ".join((error.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`"),
            next_step=error.next_step,
        )
        for error in found.values()
    ]
    return sorted([*types, *_FRAMEWORK], key=lambda problem: (problem.status, problem.code))


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route: the errors it can answer with, by status."""
    found: dict[int, list[type[ServiceError]]] = {}
    for error in errors:
        found.setdefault(error.status, []).append(error)
    return {
        status: {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in group),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, group in found.items()
    }


def _family(error: type[ServiceError]) -> Iterable[type[ServiceError]]:
    yield error
    for child in error.__subclasses__():
        yield from _family(child)


def problem_response(
    request: Request,
    error: ServiceError,
    *,
    status: int | None = None,
    code: str | None = None,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a refusal; the keywords replace what the error's class says."""
    code = code or error.code
    problem = Problem(
        type=f"{request.app.state.settings.public_url}/problems/{code}",
        title=title or error.title,
        status=status or error.status,
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
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**_advice(problem.status), **(headers or {})},
    )


def _advice(status: int) -> dict[str, str]:
    """What well-behaved clients do next."""
    match status:
        case 401:
            return {"WWW-Authenticate": 'Bearer realm="plaudit"'}
        case 409 | 429:
            return {"x-should-retry": "false"}
        case 503:
            return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}
