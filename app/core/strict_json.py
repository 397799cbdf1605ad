"""Strict JSON: reject documents that two parsers could read differently."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_NESTING = 32


def loads(data: bytes | str) -> Any:
    """Parse JSON without NaN, Infinity, duplicate keys or more than ``MAX_NESTING`` levels.

    Raises:
        json.JSONDecodeError: The input is not valid, for whatever reason.
    """
    try:
        value = json.loads(
            data, parse_constant=_reject_constant, object_pairs_hook=_reject_duplicates
        )
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        # ValueError includes invalid UTF-8 and numbers with thousands of digits.
        raise json.JSONDecodeError(str(error)[:200], "", 0) from error
    if _is_too_deep(value):
        raise json.JSONDecodeError(f"nested deeper than {MAX_NESTING}", "", 0)
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
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
