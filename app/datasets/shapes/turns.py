"""Conversations that are written as one list of texts for the user and one for each assistant."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import orjson

from app.datasets.row_errors import RowError, shown
from app.datasets.shapes.sample import Sample

_ASKED, _SIDES = "prompt", ("response_a", "response_b")


def are_turn_lists(sample: Sample) -> bool:
    """Return whether prompt and responses are lists of texts in most of the first rows."""
    lists = [all(_turns(row.get(name)) for name in (_ASKED, *_SIDES)) for _, row in sample.rows]
    return 2 * sum(lists) >= len(lists)


def with_conversations(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace prompt and responses by one conversation for each response.

    Raises:
        RowError: a value is not a list of texts, or a response has no turn for each prompt.
    """
    asked = _checked(row, _ASKED)
    made = {name: value for name, value in row.items() if name != _ASKED}
    for column in _SIDES:
        replies = _checked(row, column)
        if len(replies) != len(asked):
            raise RowError(
                "wrong_type",
                f"found {len(replies)} replies to {len(asked)} prompts",
                "give one reply for each prompt, in the same order",
                column=column,
            )
        made[column] = list(
            chain.from_iterable(
                ({"role": "user", "content": one}, {"role": "assistant", "content": other})
                for one, other in zip(asked, replies, strict=True)
            )
        )
    return made


def _checked(row: Mapping[str, Any], column: str) -> list[str]:
    turns = _turns(row.get(column))
    if turns is None:
        raise RowError(
            "wrong_type",
            f"found {shown(row.get(column))}, unlike the list of texts in the first rows",
            "write a list of texts, one for each turn, in all rows",
            column=column,
        )
    return turns


def _turns(value: Any) -> list[str] | None:
    """Return the texts of a list, which may be written as JSON; None if it is not such a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    if not isinstance(value, list) or not value:
        return None
    return value if all(isinstance(item, str) for item in value) else None
