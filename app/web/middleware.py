"""Middleware: request ids, the request log, and client addresses behind reverse proxies."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import structlog
from prometheus_client import Histogram

log = structlog.get_logger()

# The library asgi-correlation-id would replace only _request_id() and one response header. It knows
# neither structlog nor this log line, and logs a warning for each id that it refuses.
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
                # The 500 response has been sent; raising would log the traceback a second time.
                log.exception("request_failed", path=scope["path"])
            finally:
                self._finish(scope, status, time.perf_counter() - started)

    def _finish(self, scope: _Scope, status: int, seconds: float) -> None:
        # The route's template: with the path, each id would become a separate time series.
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


class ForwardedAddress:
    """Take a request's client address from X-Forwarded-For if a trusted proxy sent the request.

    uvicorn's middleware reads the header from the right and stops at the first address that is not
    a trusted proxy, so entries that the client wrote itself are ignored. What is no IP address is
    ignored too: the address of the proxy stays.

    Args:
        proxies: IP addresses and networks.
    """

    def __init__(self, app: _App, proxies: Iterable[str]) -> None:
        # Importing uvicorn takes part of a second, and most services have no proxies set.
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        self._app = app
        trusted: Any = ProxyHeadersMiddleware(self._check, _with_mapped(proxies))  # type: ignore[arg-type]
        self._forwarded: _App = trusted

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        scope["peer"] = scope.get("client")
        await self._forwarded(scope, receive, send)

    async def _check(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        client = scope.get("client")
        if client is not None and not _is_address(client[0]):
            scope["client"] = scope["peer"]
        await self._app(scope, receive, send)


def _with_mapped(proxies: Iterable[str]) -> list[str]:
    """Add the form in which an IPv6 socket shows IPv4 peers."""
    found = []
    for network in map(ip_network, proxies):
        found.append(str(network))
        if isinstance(network, IPv4Network):
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ip_address(text))
    except ValueError:
        return False
