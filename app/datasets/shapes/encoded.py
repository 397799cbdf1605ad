"""Columns whose messages or lists are written as JSON inside text, as in CSV and databases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.datasets.json_rows import json_value
from app.datasets.row_errors import FileError, RowError
from app.datasets.shapes.sample import Sample
from app.datasets.texts import ENCODED_MESSAGES, is_encoded_message
from app.datasets.unused import is_descriptive, is_harmless, plain_name

#: Columns that hold lists in every shape.
_LISTS = frozenset(
    {
        "answers", "candidates", "completions", "generations", "history", "outputs", "ranks",
        "ratings", "replies", "responses", "rewards", "scores", "summaries",
    }
)  # fmt: skip
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
#: OpenAI's input. The input of an instruction is text, also if it is JSON.
_INPUT, _BESIDE_INPUT = "input", "preferred_output"
_WITH_MESSAGES = re.compile(r"\s*\{\s*\"messages\".*\}\s*", re.DOTALL)


def encoded_columns(sample: Sample) -> frozenset[str]:
    """Return the columns in which most values of the first rows are JSON text to decode.

    That are messages, and lists in columns that hold lists in every shape.
    """
    found = set()
    names = set(map(plain_name, sample.columns))
    for column in sample.columns:
        values = list(sample.values(column))
        encoded = [value for value in values if _is_encoded(column, value)]
        if plain_name(column) == _INPUT and _BESIDE_INPUT not in names:
            encoded = list(filter(_is_messages, encoded))
        if 2 * len(encoded) > len(values) and (
            _is_messages(encoded[0]) or 2 * sum(map(_is_json, encoded)) > len(values)
        ):
            found.add(column)
    return frozenset(found)


def check_rows(sample: Sample) -> None:
    """Reject a document that holds columns, as pandas writes it, in place of rows.

    Raises:
        FileError: ``wrong_format``.
    """
    if len(sample.rows) != 1 or len(sample.columns) < 3:
        return
    values = list(sample.rows[0][1].values())
    first = values[0]
    are_numbered = isinstance(first, dict) and "0" in first
    are_texts = isinstance(first, list) and len(first) > 1 and isinstance(first[0], str)
    if (are_numbered and all(isinstance(v, dict) and v.keys() == first.keys() for v in values)) or (
        are_texts and all(isinstance(v, list) and len(v) == len(first) for v in values)
    ):
        raise FileError(
            "wrong_format",
            "the document holds columns, not rows",
            'write rows: with pandas, to_json(orient="records", lines=True)',
            line=1,
        )


def decoded(row: Mapping[str, Any], columns: frozenset[str]) -> dict[str, Any]:
    """Return a row with the messages in these columns decoded.

    Raises:
        RowError: a value begins like messages and is not JSON.
    """
    made = dict(row)
    for column in columns & row.keys():
        if _is_encoded(column, row[column]):
            try:
                made[column] = json_value(row[column])
            except RowError as error:
                if not (is_harmless(column) or is_descriptive(column)):  # which no shape reads
                    raise RowError(error.code, error.message, error.hint, column=column) from None
    return made


def _is_encoded(column: str, value: Any) -> bool:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return False
    name = plain_name(column)
    if name in _LISTS and _LIST.fullmatch(value):
        return True
    return (name == _INPUT and bool(_WITH_MESSAGES.fullmatch(value))) or _is_messages(value)


def _is_messages(value: str) -> bool:
    return bool(ENCODED_MESSAGES.match(value)) or is_encoded_message(value)


def _is_json(value: str) -> bool:
    """Return whether a text in brackets is JSON, unlike "[sighs] I [laughs]"."""
    try:
        json_value(value)
    except RowError:
        return False
    return True
