"""Checks of a single text, for any part of a row."""

from __future__ import annotations

import re

import orjson

from app.datasets.row_errors import RowError
from app.domain.rows import ROLES

_PYTHON_REPR = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
_PYTHON_REPR_OF_ONE = re.compile(
    r"\s*\{\s*'role'\s*:\s*'(system|user|assistant)'\s*,\s*'content'\s*:"
    r"|\s*\{\s*'content'\s*:.*'role'\s*:\s*'(system|user|assistant)'\s*\}\s*",
    re.DOTALL,
)
_OBJECT = re.compile(r'\s*\{\s*"(role|content)"\s*:')
ENCODED_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"\s*:')


def is_clean(text: str) -> bool:
    """Return whether a fast test proves that all checks below pass, and that it is no dialogue.

    Most texts begin with a letter or a digit, so they are neither blank nor a list.
    """
    first = text[:1]
    return first.isalnum() and "\0" not in text and (first != "H" or text[:6] != "Human:")


def check_text(path: str, text: str) -> None:
    """Reject text that is blank or that PostgreSQL cannot store.

    Raises:
        RowError: the text is empty, only white space, or has a NUL character.
    """
    if not text or text.isspace():
        raise RowError(
            "empty_text", "the text is empty", "leave out the row or the message", column=path
        )
    check_characters(path, text)


def check_characters(path: str, text: str) -> None:
    """Reject text with a NUL character.

    Raises:
        RowError: ``nul_character``.
    """
    if "\0" in text:
        raise RowError(
            "nul_character",
            f"found a NUL character at position {text.index(chr(0)) + 1}",
            "remove it; NUL is not text",
            column=path,
        )


def check_side(path: str, text: str) -> None:
    """Reject text that is blank, or that is a message or a list of messages.

    Raises:
        RowError: as in ``check_text``, or the text is messages in JSON or Python syntax.
    """
    if not text or text.isspace() or "\0" in text:
        check_text(path, text)
    if text[0] not in "[{ \t\r\n":
        return
    if _PYTHON_REPR.match(text) or _PYTHON_REPR_OF_ONE.match(text):
        raise RowError(
            "python_repr",
            "found a message, or a list of them, as Python prints it",
            "write the list as JSON (json.dumps before to_csv)",
            column=path,
        )
    if ENCODED_MESSAGES.match(text) or is_encoded_message(text):
        raise RowError(
            "encoded_messages",
            "found messages as JSON inside a string",
            "give the list itself, unquoted",
            column=path,
        )


def is_encoded_message(text: str) -> bool:
    """Return whether a text is one message as JSON.

    Replies may be other JSON objects, also with one of its keys.
    """
    if not _OBJECT.match(text):
        return False
    try:
        value = orjson.loads(text)
    except ValueError:
        return False
    is_message = isinstance(value, dict) and {"role", "content"} <= value.keys()
    return is_message and value["role"] in ROLES
