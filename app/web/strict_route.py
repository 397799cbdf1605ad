"""A route class that reads request bodies as strict JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.core import strict_json

#: Maximum number of values in a body. The validation of each takes microseconds.
MAX_VALUES = 5000
#: Larger bodies are parsed in a thread: 1 MB would block the event loop for milliseconds.
MAX_INLINE_BYTES = 8 << 10


class StrictRoute(APIRoute):
    """Route whose JSON body is parsed by ``app.core.strict_json``."""

    max_values = MAX_VALUES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the framework's handler for a request that parses its body strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = _StrictRequest(request.scope, request.receive)
            strict.max_values = self.max_values
            return await handle(strict)

        return handle_strictly


class _StrictRequest(Request):
    max_values = MAX_VALUES

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= MAX_INLINE_BYTES:
            return strict_json.loads(body, self.max_values)
        return await to_thread.run_sync(strict_json.loads, body, self.max_values)
