"""Query parameters that say how an upload is to be read."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import QueryParams

from app.core.errors import FieldProblem, InvalidError
from app.datasets.options import LABELS, MAPPABLE, OnInvalid, ReadOptions

_PAIR = re.compile(r"(columns|labels)\[(.*)\]")
_ALLOWED = {"columns": MAPPABLE, "labels": LABELS}
_MAX_CHARACTERS = 200
#: The framework does not know parameters of the form name[key]=value.
QUERY_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "columns",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": "Which column is which part: `columns[prompt]=question`. `a.b` is the key b "
        "of objects in the column a. See docs/data.md.",
        "schema": {
            "type": "object",
            "properties": {
                name: {"type": "string", "minLength": 1, "maxLength": _MAX_CHARACTERS}
                for name in MAPPABLE
            },
            "additionalProperties": False,
        },
    },
    {
        "name": "labels",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": "What the values of `columns[label]` mean: `labels[a]=1&labels[b]=0` says "
        "that response_a is better where the label is 1. Several values have commas between them; "
        "`positive` and `negative` stand for numbers of that sign.",
        "schema": {
            "type": "object",
            "properties": {
                name: {"type": "string", "minLength": 1, "maxLength": _MAX_CHARACTERS}
                for name in LABELS
            },
            "additionalProperties": False,
        },
    },
]


def read_options(
    query: QueryParams, ignore_columns: list[str], on_invalid: OnInvalid
) -> ReadOptions:
    """The options that a request gives.

    Raises:
        InvalidError: an unknown part, an empty column, or one given twice.
    """
    found: dict[str, dict[str, str]] = {"columns": {}, "labels": {}}
    problems: list[FieldProblem] = []
    for name, value in query.multi_items():
        pair = _PAIR.fullmatch(name)
        if pair is None:
            continue
        group, key = pair[1], pair[2]
        if key not in _ALLOWED[group]:
            there_are = ", ".join(_ALLOWED[group])
            problems.append(
                _problem(name, "unknown_field", f"no such part; there are: {there_are}")
            )
        elif not 0 < len(value) <= _MAX_CHARACTERS:
            problems.append(_problem(name, "out_of_range", "give 1 to 200 characters"))
        elif key in found[group]:
            problems.append(_problem(name, "duplicate_key", "the part is given twice"))
        else:
            found[group][key] = value
    if problems:
        raise InvalidError(
            f"{problems[0].loc}: {problems[0].message}", hint=problems[0].hint, problems=problems
        )
    return ReadOptions(
        columns=found["columns"],
        labels=found["labels"],
        ignore_columns=frozenset(_names(ignore_columns)),
        on_invalid=on_invalid,
    )


def _names(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _problem(name: str, code: str, message: str) -> FieldProblem:
    return FieldProblem(
        f"/query/{re.sub(r'[^ -~]', '?', name)[:100]}",
        code,
        message,
        "write columns[prompt]=question: the part in brackets, the column after the equals sign",
    )
