"""Read the optional parts of a row: margin, slice, id, tools, variables of the chat template."""

from __future__ import annotations

import math
import re
from typing import Any

from app.datasets.json_rows import json_value
from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes.labels import read_number
from app.domain.rows import RESERVED_TEMPLATE_VARIABLES

MAX_SLICE_CHARACTERS = 64
MAX_ID_CHARACTERS = 128
MAX_TOOLS = 128
MAX_VARIABLES = 16
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def read_margin(column: str, value: Any, *, is_untyped: bool) -> float:
    """Read a finite margin. It may be negative, as in TRL.

    Raises:
        RowError: ``invalid_margin``.
    """
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    elif is_untyped and isinstance(value, str) and "_" not in value:
        number = math.nan if (read := read_number(value)) is None else read
    if math.isfinite(number):
        return number + 0.0  # -0.0 becomes 0.0
    raise RowError(
        "invalid_margin",
        f"found {shown(value) if isinstance(value, str | int | float) else kind_of(value)}",
        "margin must be a finite number in all rows or in none",
        column=column,
    )


def read_slice(column: str, value: Any) -> str:
    """Read a slice label of 1 to 64 printable characters.

    Raises:
        RowError: ``invalid_slice``.
    """
    if (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SLICE_CHARACTERS
        and value.isprintable()
        and value.strip() == value
    ):
        return value
    raise RowError(
        "invalid_slice",
        f"found {shown(value) if isinstance(value, str) else kind_of(value)}",
        f"slice must be a label of 1 to {MAX_SLICE_CHARACTERS} printable characters",
        column=column,
    )


def read_id(value: Any) -> str | None:
    """Read the id of a row: an integer, or text of up to 128 printable characters.

    Return None for anything else, because other shapes ignore columns of this name.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    is_label = isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS
    return value if is_label and value.isprintable() else None


def read_tools(column: str, value: Any) -> list[dict[str, Any]]:
    """Read tool descriptions: a list of objects, or the list or its items as JSON text.

    The list may be empty.

    Raises:
        RowError: ``invalid_tools``.
    """
    tools = _decoded(column, value)
    if isinstance(tools, list):
        tools = [_decoded(f"{column}[{index}]", tool) for index, tool in enumerate(tools)]
    if isinstance(tools, list) and len(tools) <= MAX_TOOLS and all(map(_is_tool, tools)):
        return tools
    raise RowError(
        "invalid_tools",
        f"found {kind_of(tools)} that is not a list of up to {MAX_TOOLS} tools",
        'write [{"type": "function", "function": {"name": "…", "parameters": {…}}}]',
        column=column,
    )


def read_variables(column: str, value: Any) -> dict[str, Any]:
    """Read variables of the chat template: names with text, numbers or booleans.

    Raises:
        RowError: ``invalid_template_variables``.
    """
    variables = _decoded(column, value)
    problem = ""
    if not isinstance(variables, dict) or len(variables) > MAX_VARIABLES:
        problem = f"found {kind_of(variables)} that is not an object of up to {MAX_VARIABLES} names"
    else:
        variables = {name: each for name, each in variables.items() if each is not None}
        for name, each in variables.items():
            if not _VARIABLE.fullmatch(name) or name in RESERVED_TEMPLATE_VARIABLES:
                problem = f"{shown(name)} is not a variable that an upload may set"
            elif not isinstance(each, str | int | float | bool):
                problem = f"{shown(name)} is {kind_of(each)}"
    if problem:
        raise RowError(
            "invalid_template_variables",
            problem,
            'write {"enable_thinking": false}: names with text, numbers or booleans',
            column=column,
        )
    return dict(sorted(variables.items()))


def _decoded(column: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json_value(value)
    except RowError as error:
        raise RowError(error.code, error.message, "write the list as JSON", column=column) from None


def _is_tool(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    function = tool.get("function", tool)
    return isinstance(function, dict) and isinstance(function.get("name"), str)
