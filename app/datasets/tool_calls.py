"""Convert the tool calls of uploaded messages to those of stored messages (``app.domain.rows``)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from app.datasets.json_rows import json_value
from app.datasets.row_errors import RowError, kind_of
from app.datasets.unused import UnusedFields

#: Keys of the arguments; Llama's templates write ``parameters``.
_ARGUMENTS = ("arguments", "parameters")


def read_tool_calls(
    path: str, message: Mapping[str, Any], unused: UnusedFields
) -> list[dict[str, Any]]:
    """Read the tool calls of a message; ``path`` names the message in errors.

    Raises:
        RowError: a call is invalid.
        FileError: ignoring a key of a call would lose a part of it.
    """
    calls = message.get("tool_calls") or []
    if isinstance(calls, str):
        with suppress(RowError):
            calls = json_value(calls)
    if not isinstance(calls, list):
        raise RowError(
            "wrong_type",
            f"found {kind_of(calls)}",
            "tool_calls must be a list",
            column=f"{path}.tool_calls",
        )
    if legacy := message.get("function_call"):  # OpenAI's form before it had tool_calls
        calls = [*calls, {"type": "function", "function": legacy}]
    return [_call(f"{path}.tool_calls[{index}]", call, unused) for index, call in enumerate(calls)]


def read_sharegpt_call(path: str, value: Any, unused: UnusedFields) -> dict[str, Any]:
    """Read the value of a ``function_call`` turn: an object with name and arguments, or its JSON.

    Raises:
        RowError, FileError: as in ``read_tool_calls``.
    """
    return _call(path, _parsed_object(value) if isinstance(value, str) else value, unused)


def _call(path: str, call: Any, unused: UnusedFields) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RowError(
            "invalid_tools",
            f"found {kind_of(call)} without a function name",
            'write {"type": "function", "function": {"name": "…", "arguments": {…}}}',
            column=path,
        )
    assert isinstance(function, dict)
    at = path if function is call else f"{path}.function"
    key = next((key for key in _ARGUMENTS if function.get(key) is not None), _ARGUMENTS[0])
    arguments = _arguments(f"{at}.{key}", function.get(key))
    stored: dict[str, Any] = {"function": {"arguments": arguments, "name": name}}
    if isinstance(call.get("id"), str):
        stored["id"] = call["id"]
    around = {"function", "id", "type"}
    if function is call:
        unused.check_keys(path, call, around | {"name", key})
    else:
        unused.check_keys(path, call, around)
        unused.check_keys(at, function, {"name", key})
    return stored | {"type": "function"}


def _arguments(path: str, value: Any) -> dict[str, Any] | str:
    if isinstance(value, str):
        value = _parsed_object(value)
    if not value and value != "":  # null, and the empty list that some writers give for no argument
        return {}
    if isinstance(value, dict | str):
        return value
    raise RowError(
        "invalid_tools",
        f"found {kind_of(value)}",
        "give the arguments as an object, or as JSON text",
        column=path,
    )


def _parsed_object(text: str) -> Any:
    """Decode a JSON object, the form in which most templates expect arguments; else return text."""
    try:
        value = json_value(text)
    except RowError:
        return text
    return value if isinstance(value, dict) else text
