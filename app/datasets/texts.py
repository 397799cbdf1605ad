"""Checks of single texts, whatever part of a row they are."""

from __future__ import annotations

import re

from app.datasets.row_errors import RowError

_PYTHON_REPR = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
ENCODED_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"\s*:')


def is_clean(text: str) -> bool:
    """Whether the checks below are sure to find nothing: most texts begin with a letter or digit,
    so they are neither blank nor a list."""
    return text[:1].isalnum() and "\0" not in text


def check_text(path: str, text: str) -> None:
    """Refuse text that says nothing or that no database can store.

    Raises:
        RowError: empty, or only white space, or with a NUL character.
    """
    if not text or text.isspace():
        raise RowError(
            "empty_text", "the text is empty", "leave out the row or the message", column=path
        )
    check_characters(path, text)


def check_characters(path: str, text: str) -> None:
    """Refuse a NUL character.

    Raises:
        RowError: there is one.
    """
    if "\0" in text:
        raise RowError(
            "nul_character",
            f"found a NUL character at position {text.index(chr(0)) + 1}",
            "remove it; NUL is not text",
            column=path,
        )


def check_side(path: str, text: str) -> None:
    """Refuse text that is empty or that holds messages in the form of text.

    Raises:
        RowError: as ``check_text``, or the text is a printed list of messages.
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
