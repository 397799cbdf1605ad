"""HTTP semantics that hold for every resource (RFC 9110): repeated header lines and HEAD."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Fields with a list of values. Several lines of them mean the same as one line.
LIST_FIELDS = (b"accept", b"if-match", b"if-none-match")
METHOD_NOT_ALLOWED = 405


class CombinedFields:
    """Joins repeated lines of list fields (§5.3): the framework reads the first one only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for field in LIST_FIELDS:
                values = [value for name, value in scope["headers"] if name == field]
                if len(values) > 1:
                    others = [line for line in scope["headers"] if line[0] != field]
                    scope = {**scope, "headers": [*others, (field, b", ".join(values))]}
        await self._app(scope, receive, send)


class HeadRequests:
    """Answers HEAD wherever GET is answered (§9.3.2): with the same status and fields.

    Routes that declare HEAD themselves get it. Others get a GET, with ``is_head`` in the scope for
    responses that need not be made.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        has_route = True

        async def send_unless_refused(message: Message) -> None:
            nonlocal has_route
            if message["type"] == "http.response.start":
                has_route = message["status"] != METHOD_NOT_ALLOWED
            if has_route:
                await send(message)

        is_over = False

        async def send_without_body(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                await send(message)
            elif not is_over:
                is_over = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive, send_unless_refused)
        if not has_route:
            get = {**scope, "method": "GET", "is_head": True}
            await self._app(get, receive, send_without_body)
            scope["route"] = get.get("route")  # for the log and the metrics


def is_head(scope: Scope) -> bool:
    """Return whether a request wants no body."""
    return scope["method"] == "HEAD" or bool(scope.get("is_head"))
