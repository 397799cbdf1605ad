"""Query parameters for the options of an upload."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from app.core.errors import FieldProblem, InvalidError
from app.datasets.options import LABELS, MAPPABLE, OnInvalid, ReadOptions

_PAIR = re.compile(r"(columns|labels)\[(.*)\]")
_ALLOWED = {"columns": MAPPABLE, "labels": LABELS}
_MAX_CHARACTERS = 200
#: Described here because FastAPI does not support parameters of the form name[key]=value.
QUERY_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "columns",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": "Column of each part, such as `columns[prompt]=question`. `a.b` is the key "
        "b of objects in the column a. See docs/data.md.",
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
        "description": "Meaning of the values of `columns[label]`: with `labels[a]=1&labels[b]=0`, "
        "response_a is better if the label is 1. Separate several values with commas; `positive` "
        "and `negative` mean numbers of that sign.",
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


async def read_options(
    request: Request,
    ignore_columns: Annotated[
        list[str] | None,
        Query(
            max_length=100,
            description="Columns to ignore although they hold text, and keys of messages such as "
            "`messages[].name`. Repeat the parameter, or separate names with commas.",
        ),
    ] = None,
    on_invalid: Annotated[
        OnInvalid,
        Query(description="skip: skip rows that cannot be used, and count them by reason."),
    ] = "refuse",
) -> ReadOptions:
    """Read the options from the query of a request.

    Raises:
        InvalidError: a part is unknown or given twice, or a column is empty or too long.
    """
    found: dict[str, dict[str, str]] = {"columns": {}, "labels": {}}
    problems: list[FieldProblem] = []
    for name, value in request.query_params.multi_items():
        pair = _PAIR.fullmatch(name)
        if pair is None:
            continue
        group, key = pair[1], pair[2]
        if key not in _ALLOWED[group]:
            there_are = ", ".join(_ALLOWED[group])
            problems.append(
                _problem(name, "unknown_field", f"no such part; the parts are: {there_are}")
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
        ignore_columns=frozenset(_names(ignore_columns or [])),
        on_invalid=on_invalid,
    )


ReadOptionsDep = Annotated[ReadOptions, Depends(read_options)]


def _names(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _problem(name: str, code: str, message: str) -> FieldProblem:
    return FieldProblem(
        f"/query/{re.sub(r'[^ -~]', '?', name)[:100]}",
        code,
        message,
        "write columns[prompt]=question: the part in brackets, the column after the equals sign",
    )
