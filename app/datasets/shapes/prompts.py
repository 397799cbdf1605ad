"""Read the parts that precede the reply: system text, history, and the input of an instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datasets.conversations import Message, read_messages
from app.datasets.row_errors import RowError, kind_of
from app.datasets.shapes.sample import value_at
from app.datasets.texts import check_characters, check_text
from app.datasets.unused import UnusedFields


def read_system(column: str | None, row: Mapping[str, Any], unused: UnusedFields) -> str | None:
    """Read the system text; return None if it is missing or blank.

    It may be a message, or a list of text parts.

    Raises:
        RowError: the value is not text.
    """
    value = value_at(row, column) if column is not None else None
    if value and isinstance(value, dict | list):
        message = value if isinstance(value, dict) else {"content": value}
        (read,) = read_messages(str(column), [{"role": "system"} | message], unused)
        value = read["content"]
    if value is None or (isinstance(value, str) and (not value or value.isspace())):
        return None
    if not isinstance(value, str):
        raise RowError(
            "wrong_type",
            f"found {kind_of(value)}",
            "give the system text as text",
            column=column,
        )
    check_characters(str(column), value)
    return value


def read_history(column: str | None, row: Mapping[str, Any], unused: UnusedFields) -> list[Message]:
    """Read earlier turns: messages, or ``[[user text, assistant text], …]`` as in LLaMA-Factory.

    Raises:
        RowError: the value has neither form.
    """
    value = value_at(row, column) if column is not None else None
    if not value:
        return []
    assert column is not None
    if isinstance(value, list) and all(isinstance(item, list) for item in value):
        messages = []
        for index, turn in enumerate(value):
            if len(turn) != 2 or not all(isinstance(text, str) for text in turn):
                raise _bad_history(f"{column}[{index}]", turn)
            for text in turn:
                check_text(f"{column}[{index}]", text)
            messages += [
                {"content": turn[0], "role": "user"},
                {"content": turn[1], "role": "assistant"},
            ]
        return messages
    if isinstance(value, list):
        return read_messages(column, value, unused)
    raise _bad_history(column, value)


def with_input(column: str, prompt: Any, value: Any) -> Any:
    """Return the instruction and its input as one text, separated by a newline.

    Raises:
        RowError: the input is not text, or the prompt is messages.
    """
    if value is None or value == "":
        return prompt
    if not isinstance(value, str) or not isinstance(prompt, str | None):
        raise RowError(
            "wrong_type",
            f"found {kind_of(value)} next to a prompt that is {kind_of(prompt)}",
            "give both as text, or write the input into the prompt's messages",
            column=column,
        )
    check_characters(column, value)
    return value if prompt is None else f"{prompt}\n{value}"


def _bad_history(path: str, value: Any) -> RowError:
    return RowError(
        "wrong_type",
        f"found {kind_of(value)}",
        'give messages, or [["user text", "assistant text"], …]',
        column=path,
    )
