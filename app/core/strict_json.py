"""Strict JSON: reject documents that two parsers could read differently."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_NESTING = 32


def loads(data: bytes | str, max_values: int | None = None) -> Any:
    """Parse JSON without NaN, Infinity, duplicate keys or more than ``MAX_NESTING`` levels.

    ``max_values`` limits the total number of objects, lists and scalars, because validation takes
    time, and can report an error, for each of them.

    Raises:
        json.JSONDecodeError: The input is not valid or exceeds a limit.
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
    _check_size(value, max_values)
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _check_size(value: Any, max_values: int | None) -> None:
    level, count = [value], 1
    for _ in range(MAX_NESTING):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        count += len(level)
        if max_values is not None and count > max_values:
            raise json.JSONDecodeError(f"more than {max_values} values", "", 0)
        if not level:
            return
    raise json.JSONDecodeError(f"nested deeper than {MAX_NESTING}", "", 0)
