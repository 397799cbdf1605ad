"""Query parameters for the options of an upload."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from app.core.errors import FieldProblem, InvalidError
from app.datasets.options import LABELS, MAPPABLE, OnInvalid, ReadOptions
from app.domain.training_spec import MAX_TEMPLATE_VARIABLES, TemplateVariables

_VARIABLES = "chat_template_kwargs"
_PAIR = re.compile(r"(columns|labels|chat_template_kwargs)\[(.*)\]")
_ALLOWED = {"columns": MAPPABLE, "labels": LABELS}
_MAX_CHARACTERS = 200
#: Maximum length of the text of a variable, as JSON.
_MAX_VARIABLE_CHARACTERS = 4000
_READ_VARIABLES: TypeAdapter[dict[str, bool | int | float | str]] = TypeAdapter(
    TemplateVariables, config=ConfigDict(allow_inf_nan=False)
)
_SCALAR = re.compile(r'true|false|-?\d.*|".*"', re.DOTALL)
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
    {
        "name": _VARIABLES,
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": "Variables of the chat template for all rows: "
        "`chat_template_kwargs[enable_thinking]=false`. A value is true, false, a number, or text; "
        "text that looks like one of these has double quotes around it. Those of a job and of a "
        "row take precedence.",
        "schema": {
            "type": "object",
            "maxProperties": MAX_TEMPLATE_VARIABLES,
            "additionalProperties": {"type": "string", "maxLength": _MAX_VARIABLE_CHARACTERS},
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
    found, problems = _read_groups(request)
    variables, bad_variables = _read_variables(found[_VARIABLES])
    if problems := problems + bad_variables:
        raise InvalidError(
            f"{problems[0].loc}: {problems[0].message}", hint=problems[0].hint, problems=problems
        )
    return ReadOptions(
        columns=found["columns"],
        labels=found["labels"],
        ignore_columns=frozenset(_names(ignore_columns or [])),
        on_invalid=on_invalid,
        chat_template_kwargs=variables,
    )


ReadOptionsDep = Annotated[ReadOptions, Depends(read_options)]


def _read_groups(request: Request) -> tuple[dict[str, dict[str, str]], list[FieldProblem]]:
    """Return the parameters of the form group[key]=value by group, and the invalid ones."""
    found: dict[str, dict[str, str]] = {"columns": {}, "labels": {}, _VARIABLES: {}}
    problems: list[FieldProblem] = []
    for name, value in request.query_params.multi_items():
        pair = _PAIR.fullmatch(name)
        if pair is None:
            continue
        group, key = pair[1], pair[2]
        most = _MAX_VARIABLE_CHARACTERS if group == _VARIABLES else _MAX_CHARACTERS
        if group in _ALLOWED and key not in _ALLOWED[group]:
            there_are = ", ".join(_ALLOWED[group])
            problems.append(
                _problem(name, "unknown_field", f"no such part; the parts are: {there_are}")
            )
        elif not 0 < len(value) <= most:
            problems.append(_problem(name, "out_of_range", f"give 1 to {most} characters"))
        elif key in found[group]:
            problems.append(_problem(name, "duplicate_key", "the part is given twice"))
        else:
            found[group][key] = value
    return found, problems


def _names(values: list[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _read_variables(
    texts: dict[str, str],
) -> tuple[dict[str, bool | int | float | str], list[FieldProblem]]:
    """Return the variables of the chat template, or the problems in them."""
    values = {name: json.loads(text) if _is_scalar(text) else text for name, text in texts.items()}
    try:
        return _READ_VARIABLES.validate_python(values), []
    except ValidationError as error:
        return {}, [_variable_problem(name, found) for name, found in _by_name(error).items()]


def _by_name(error: ValidationError) -> dict[str, ErrorDetails]:
    """Return one error per variable, and not one for each type that it could have."""
    found: dict[str, ErrorDetails] = {}
    for each in error.errors(include_url=False, include_input=False):
        name = f"{_VARIABLES}[{each['loc'][0]}]" if each["loc"] else _VARIABLES
        if name not in found or not each["type"].endswith("_type"):
            found[name] = each
    return found


def _variable_problem(name: str, found: ErrorDetails) -> FieldProblem:
    return _problem(
        name,
        found["type"],
        found["msg"],
        "write chat_template_kwargs[enable_thinking]=false: the name in brackets, a value of up to "
        "512 characters after the equals sign",
    )


def _is_scalar(text: str) -> bool:
    """Return whether a text is the JSON of a boolean, a finite number or a string."""
    if not _SCALAR.fullmatch(text):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _problem(
    name: str,
    code: str,
    message: str,
    hint: str = "write columns[prompt]=question: the part in brackets, the column after the equals "
    "sign",
) -> FieldProblem:
    return FieldProblem(f"/query/{re.sub(r'[^ -~]', '?', name)[:100]}", code, message, hint)
