"""Writes down which status each documented operation answered with, over all tests of this room."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.application import Plaudit

Operation = tuple[str, str]
Seen = dict[Operation, set[int]]


@contextmanager
def recording() -> Iterator[Seen]:
    """From here on every service that is made in this process is listened to."""
    seen: Seen = defaultdict(set)
    build = Plaudit.build_middleware_stack

    def build_recorded(app: Plaudit) -> ASGIApp:
        stack = build(app)

        async def listen(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route: Any = scope.get("route")
                    path = getattr(route, "path_format", "")
                    seen[scope["method"], path].add(message["status"])
                await send(message)

            await stack(scope, receive, note if scope["type"] == "http" else send)

        return listen

    with patch.object(Plaudit, "build_middleware_stack", build_recorded):
        yield seen
