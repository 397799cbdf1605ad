"""Every way in which a request can fail, answered with a problem."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import (
    HostError,
    InvalidError,
    NotFoundError,
    RateLimitedError,
    ServiceError,
    TooLargeError,
    UnavailableError,
)
from app.storage.free_space import StorageFullError, is_full
from app.web.problem_details import problem_response
from app.web.validation_errors import field_problems

log = structlog.get_logger()


def install(app: FastAPI) -> None:
    """Answer every kind of failure with a problem."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(OperationalError, _on_database_away)
    app.add_exception_handler(PoolTimeoutError, _on_database_away)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_defect)


class PlainRefusals:
    """Turns the framework's own text/plain refusals, sent around our handlers, into problems."""

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def translate(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] in _PLAIN:
                kind = dict(message["headers"]).get(b"content-type", b"")
                if kind.startswith(b"text/plain"):
                    is_replaced = True
                    request = Request({**scope, "app": self._owner})
                    answer = problem_response(request, _PLAIN[message["status"]]())
                    await answer(scope, receive, send)
                    return
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, translate if scope["type"] == "http" else send)


def _too_large() -> TooLargeError:
    return TooLargeError(
        "The body is larger than this route takes.", hint="Upload data through POST /v1/datasets."
    )


def _unknown_host() -> HostError:
    return HostError(
        "The Host header names no host of this service.",
        hint="The operator lists its names in PLAUDIT_TRUSTED_HOSTS.",
    )


#: By status: what the framework refuses before a handler is reached.
_PLAIN: dict[int, Callable[[], ServiceError]] = {400: _unknown_host, 413: _too_large}


def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status >= 500:
        log.warning("refused", code=error.code, detail=error.detail)
    if isinstance(error, RateLimitedError):
        seconds = str(math.ceil(error.retry_after_seconds))
        advice = {"Retry-After": seconds, "x-should-retry": "true"}
        return problem_response(request, error, headers=advice)
    return problem_response(request, error)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    body = getattr(route, "body_field", None)
    problems = field_problems(error.errors(), error.body, body and body.field_info.annotation)
    loc = problems[0].loc
    # More than one where each form that a field may have was tried.
    reasons = " or: ".join(problem.message for problem in problems if problem.loc == loc)
    return problem_response(
        request,
        InvalidError(f"{loc or '/'}: {reasons}", hint=problems[0].hint, problems=problems),
        headers={},
    )


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 413:
        return problem_response(request, _too_large())
    if error.status_code == 404:
        return problem_response(request, NotFoundError("There is nothing at this address."))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    phrase = HTTPStatus(error.status_code).phrase
    return problem_response(
        request,
        ServiceError(str(error.detail)),
        status=error.status_code,
        code=re.sub(r"[^a-z]+", "_", phrase.lower()),
        title=phrase,
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """All methods of the address; the framework names those of one route only."""
    route = request.scope.get("route")
    documented = request.app.openapi()["paths"].get(getattr(route, "path", ""))
    # Pages are in no document, and have one route each.
    return ", ".join(sorted(m.upper() for m in documented or getattr(route, "methods", ())))


def _on_database_away(request: Request, error: Exception) -> Response:
    if is_full(error):
        return _storage_full(request, error)
    log.error("database_away", error=type(error).__name__)
    return problem_response(
        request,
        UnavailableError("The database cannot be reached or is too busy.", hint="Try again."),
    )


def _storage_full(request: Request, error: Exception) -> Response:
    log.error("storage_full", error=str(error)[:200])
    return problem_response(
        request,
        StorageFullError(
            "The disk of the service is full.",
            hint="Delete what is not needed, or ask the operator for more disk space.",
        ),
    )


def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _on_defect(request: Request, error: Exception) -> Response:
    if is_full(error):
        return _storage_full(request, error)
    # The traceback goes to the log (see telemetry), never to the client.
    return problem_response(
        request,
        ServiceError(
            "A defect of the service.",
            hint="Try again; if it stays, report the request_id to the operator.",
        ),
    )
