"""Middleware that gives each request an id, times it and logs it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from prometheus_client import Histogram

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class RequestLog:
    """Outermost middleware: request id, duration histogram and one log line per request."""

    def __init__(self, app: _App, durations: Histogram) -> None:
        self._app = app
        self._durations = durations

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        status = 500

        async def send_with_id(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # The problem was sent already; the server would only log this a second time.
                log.exception("request_failed", path=scope["path"])
            finally:
                self._finish(scope, status, time.perf_counter() - started)

    def _finish(self, scope: _Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids would make a series each.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._durations.labels(scope["method"], route, str(status)).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


def _request_id(scope: _Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode())
    return uuid.uuid4().hex
