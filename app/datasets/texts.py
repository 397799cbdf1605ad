"""Checks of a single text, for any part of a row."""

from __future__ import annotations

import re

from app.datasets.row_errors import RowError

_PYTHON_REPR = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
ENCODED_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"\s*:')


def is_clean(text: str) -> bool:
    """Return whether a fast test proves that all checks below pass.

    Most texts begin with a letter or a digit, so they are neither blank nor a list.
    """
    return text[:1].isalnum() and "\0" not in text


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
    """Reject text that is blank or that is an encoded list of messages.

    Raises:
        RowError: as in ``check_text``, or the text is a list of messages in JSON or Python syntax.
    """
    if not text or text.isspace() or "\0" in text:
        check_text(path, text)
    if text[0] not in "[ \t\r\n":
        return
    if _PYTHON_REPR.match(text):
        raise RowError(
            "python_repr",
            "found a list of messages as Python prints it",
            "write the list as JSON (json.dumps before to_csv)",
            column=path,
        )
    if ENCODED_MESSAGES.match(text):
        raise RowError(
            "encoded_messages",
            "found messages as JSON inside a string",
            "give the list itself, unquoted",
            column=path,
        )
