"""Replies in numbered columns (``response_1``, ``response_2`` …) with one list of their scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.datasets.row_errors import RowError
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import PROMPTS, Parts

_COLUMN = re.compile(r"response_([1-9][0-9]?)")
NUMBERED = Parts(prompt=PROMPTS, input=("input",), answers=("responses",), scores=("scores",))


def numbered_responses(sample: Sample) -> Parts | None:
    """Return the parts if the first rows have numbered responses and a list of scores."""
    is_list = any(isinstance(value, list) for value in sample.values("scores"))
    has_several = len(_numbered(sample.columns)) > 1
    return NUMBERED if is_list and has_several and not sample.has("responses") else None


def with_responses(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the numbered columns by one list, in the order of their numbers.

    Null at its end is absent: in Parquet all rows have the columns of the longest one.

    Raises:
        RowError: the row has a column ``responses`` too.
    """
    if row.get("responses") is not None:
        raise RowError(
            "two_values",
            "this row has responses beside the numbered columns, unlike the first rows",
            "write the replies in one of the two forms",
            column="responses",
        )
    names = _numbered(row)
    made = {name: value for name, value in row.items() if name not in names}
    while names and row[names[-1]] is None:
        names.pop()
    return {**made, "responses": [row[name] for name in names]}


def _numbered(columns: Iterable[str]) -> list[str]:
    """Return the names of the columns response_1, response_2 … up to the first missing number."""
    found = {int(match[1]): name for name in columns if (match := _COLUMN.fullmatch(name))}
    count = next(number for number in range(1, len(found) + 2) if number not in found)
    return [found[number] for number in range(1, count)]
