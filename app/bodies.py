"""Request bodies as strict JSON: what two readers could understand differently is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

MAX_NESTING = 32


class StrictRoute(APIRoute):
    """Reads JSON without NaN and Infinity, keys given twice, or bottomless nesting."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, with our reading of the body."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            value = json.loads(
                body, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
            )  # fmt: skip
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:
            # ValueError also: bytes that are no UTF-8, numbers of thousands of digits.
            raise json.JSONDecodeError(str(error)[:200], "", 0) from error
        if _is_too_deep(value):
            raise json.JSONDecodeError(f"nested deeper than {MAX_NESTING}", "", 0)
        return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
