"""Exception handlers: every failed request gets a problem as its response."""

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
from app.web.problem_details import problem_response, status_of
from app.web.validation_errors import field_problems

log = structlog.get_logger()


def install(app: FastAPI) -> None:
    """Register a handler for every kind of error."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(OperationalError, _on_database_unavailable)
    app.add_exception_handler(PoolTimeoutError, _on_database_unavailable)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected_error)


class PlainTextErrors:
    """Replaces the framework's text/plain errors, which bypass exception handlers, by problems."""

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def translate(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] in _PLAIN_TEXT:
                content_type = dict(message["headers"]).get(b"content-type", b"")
                if content_type.startswith(b"text/plain"):
                    is_replaced = True
                    request = Request({**scope, "app": self._owner})
                    response = problem_response(request, _PLAIN_TEXT[message["status"]]())
                    await response(scope, receive, send)
                    return
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, translate if scope["type"] == "http" else send)


def _too_large() -> TooLargeError:
    return TooLargeError(
        "The body is larger than this route accepts.",
        hint="Upload datasets with POST /v1/datasets.",
    )


def _unknown_host() -> HostError:
    return HostError(
        "The Host header does not name a trusted host.",
        hint="The operator lists trusted hosts in PLAUDIT_TRUSTED_HOSTS.",
    )


#: The errors that the framework sends as text/plain, by status.
_PLAIN_TEXT: dict[int, Callable[[], ServiceError]] = {400: _unknown_host, 413: _too_large}


def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if status_of(type(error)) >= 500:
        log.warning("request_refused", code=error.code, detail=error.detail)
    if isinstance(error, RateLimitedError):
        seconds = str(math.ceil(error.retry_after_seconds))
        headers = {"Retry-After": seconds, "x-should-retry": "true"}
        return problem_response(request, error, headers=headers)
    return problem_response(request, error)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    body = getattr(route, "body_field", None)
    problems = field_problems(error.errors(), error.body, body and body.field_info.annotation)
    loc = problems[0].loc
    # A field with several accepted types has one message for each of them.
    messages = " or: ".join(problem.message for problem in problems if problem.loc == loc)
    return problem_response(
        request,
        InvalidError(f"{loc or '/'}: {messages}", hint=problems[0].hint, problems=problems),
    )


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 413:
        return problem_response(request, _too_large())
    if error.status_code == 404:
        return problem_response(request, NotFoundError("There is no resource at this address."))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed_methods(request)
    phrase = HTTPStatus(error.status_code).phrase
    return problem_response(
        request,
        ServiceError(str(error.detail)),
        status=error.status_code,
        code=re.sub(r"[^a-z]+", "_", phrase.lower()),
        title=phrase,
        headers=headers,
    )


def _allowed_methods(request: Request) -> str:
    """Return all methods of the path; the framework names those of a single route."""
    route = request.scope.get("route")
    operations = request.app.openapi()["paths"].get(getattr(route, "path", ""))
    # Pages of the dashboard are not in the document and have one route each.
    methods = operations or getattr(route, "methods", ())
    return ", ".join(sorted(method.upper() for method in methods))


def _on_database_unavailable(request: Request, error: Exception) -> Response:
    if is_full(error):
        return _storage_full(request, error)
    log.error("database_unavailable", error=type(error).__name__)
    return problem_response(
        request,
        UnavailableError(
            "The database is unreachable or overloaded.", hint="Retry the request in a moment."
        ),
    )


def _storage_full(request: Request, error: Exception) -> Response:
    log.error("storage_full", error=str(error)[:200])
    return problem_response(
        request,
        StorageFullError(
            "The disk of the service is full.",
            hint=StorageFullError.next_step,
        ),
    )


def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # never sent: the client has disconnected


def _on_unexpected_error(request: Request, error: Exception) -> Response:
    if is_full(error):
        return _storage_full(request, error)
    # RequestLog logs the traceback. The response must not contain it.
    return problem_response(
        request,
        ServiceError("The service failed unexpectedly.", hint=ServiceError.next_step),
    )
