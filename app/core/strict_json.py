"""Strict JSON: reject what two parsers could read differently."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_NESTING = 32


def loads(data: bytes | str) -> Any:
    """Parse JSON without NaN, Infinity, duplicate keys or more than ``MAX_NESTING`` levels.

    Raises:
        json.JSONDecodeError: for every kind of invalid input.
    """
    try:
        value = json.loads(
            data, parse_constant=_reject_constant, object_pairs_hook=_reject_duplicates
        )
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        # ValueError covers bytes that are not UTF-8 and numbers of thousands of digits.
        raise json.JSONDecodeError(str(error)[:200], "", 0) from error
    if _is_too_deep(value):
        raise json.JSONDecodeError(f"nested deeper than {MAX_NESTING}", "", 0)
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
