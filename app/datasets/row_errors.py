"""Errors of an uploaded dataset: what was found, where, and how to correct it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.core.errors import FieldProblem, InvalidError

ProblemCode = Literal[
    # the row cannot be read
    "invalid_utf8", "invalid_json", "duplicate_key", "non_finite_number", "too_deep",
    "line_too_long", "not_an_object", "invalid_csv", "wrong_cell_count",
    # the row is not a preference pair
    "missing_column", "wrong_type", "empty_conversation", "missing_content", "content_parts",
    "image_parts", "unknown_role", "last_not_assistant", "not_a_dialogue", "prompt_repeated",
    "prompt_mismatch", "two_values", "empty_text", "identical_pair", "tie", "encoded_messages",
    "python_repr", "nul_character", "lone_surrogate", "invalid_margin", "invalid_slice",
    "too_many_slices", "invalid_label", "invalid_ranks", "too_many_replies", "invalid_tools",
    "invalid_template_variables",
    # the row disagrees with the first rows
    "mixed_format", "mixed_prompt", "mixed_margin",
    # the file as a whole; reading stops here
    "empty_dataset", "too_many_skipped", "unused_column", "unknown_column", "invalid_mapping",
    "wrong_format", "duplicate_column", "invalid_gzip", "invalid_archive",
    "compression_ratio", "too_large", "too_many_rows", "unreadable_parquet", "unreadable_arrow",
    "unsupported_type",
]  # fmt: skip

MAX_REPORTED = 10
_SHOWN_CHARACTERS = 60


class RowProblem(BaseModel):
    """One bad line: where it is, what was found, and what to do.

    ``line`` counts from 1 (rows for Parquet and Arrow). ``column`` is a field path such as
    ``chosen[1].role``. ``offset`` counts characters of the line from 1 (bytes for
    ``invalid_utf8``) and is set if no field can be named.
    """

    model_config = ConfigDict(frozen=True)

    line: int
    column: str | None
    code: ProblemCode
    message: str
    hint: str
    offset: int | None = None

    def sentence(self) -> str:
        """Return the location and the message, without the hint."""
        where = f"line {self.line}" + (f", {self.column}" if self.column else "")
        return f"{where}: {self.message}"


class _UploadError(Exception):
    def __init__(
        self,
        code: ProblemCode,
        message: str,
        hint: str,
        *,
        column: str | None = None,
        offset: int | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ProblemCode = code
        self.message = message
        self.hint = hint
        self.column = column
        self.offset = offset
        self.line = line

    def at(self, line: int) -> RowProblem:
        """Return the problem at ``line``, unless the error has its own line."""
        return RowProblem(
            line=self.line or line,
            column=self.column,
            code=self.code,
            message=self.message,
            hint=self.hint,
            offset=self.offset,
        )


class RowError(_UploadError):
    """A row that is not a valid preference row; the reader records it and reads the next row."""


class FileError(_UploadError):
    """An error that stops the reading of the file."""


Row = tuple[int, dict[str, Any] | RowError]
"""A line number, and the columns of the row or the error of the line."""


class InvalidDatasetError(InvalidError):
    """The upload was read and rejected.

    ``rows`` holds the first ten bad lines, ``bad_line_count`` the number of bad lines.
    ``is_counted_to_end`` is false if reading stopped early, so that there may be more.
    ``can_skip`` means that the upload is accepted without these lines if the caller asks for it.
    """

    code = "invalid_dataset"
    title = "The dataset is not valid"

    def __init__(
        self,
        rows: Sequence[RowProblem],
        *,
        bad_line_count: int,
        is_counted_to_end: bool,
        can_skip: bool = False,
    ) -> None:
        # `problems` describes each line, so the detail does not repeat them.
        if bad_line_count == 1:
            detail, hint = rows[0].sentence(), rows[0].hint
        else:
            at_least = "" if is_counted_to_end else "At least "
            first = rows[0].line
            detail = f"{at_least}{bad_line_count} lines are not usable, the first is line {first}"
            named = f"the lines, of which the first {len(rows)} are named,"
            lines = named if bad_line_count > len(rows) else "the named lines"
            hint = f"Correct {lines} and upload the file again."
        if can_skip:
            hint = f"{hint.rstrip('.')}. To store the dataset without them, set on_invalid=skip."
        super().__init__(
            f"{detail}. Nothing was stored.",
            hint=hint,
            problems=[
                # A client prints equal hints once.
                FieldProblem(
                    loc=_pointer(row),
                    code=row.code,
                    message=row.message,
                    hint=hint if bad_line_count == 1 else row.hint,
                )
                for row in rows
            ],
        )
        self.rows = tuple(rows)
        self.bad_line_count = bad_line_count
        self.is_counted_to_end = is_counted_to_end


def shown(value: Any, characters: int = _SHOWN_CHARACTERS) -> str:
    """Return text from an upload quoted, truncated, and safe to print and to store."""
    text = value if isinstance(value, str) else repr(value)[: 4 * characters]
    cut = text if len(text) <= characters else text[:characters] + "…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def image_error(column: str) -> RowError:
    """Return the error for an image, audio or video in any part of a row."""
    found, what = "an image", "images"
    for kind in ("audio", "video"):
        if kind in column.lower():
            found = what = kind
    return RowError(
        "image_parts",
        f"found {found}; {what}{' is' if found == what else ' are'} not supported, because the "
        "reward models read text only",
        f"remove the rows with {what}, or describe the {found.removeprefix('an ')} in text",
        column=column,
    )


def kind_of(value: Any) -> str:
    """Return the name of a JSON value's type for messages to the user."""
    if value is None:
        return "null"
    kinds = {str: "text", list: "a list", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number")


def _pointer(row: RowProblem) -> str:
    steps = [] if row.column is None else re.findall(r"[^.\[\]]+", row.column)
    escaped = [step.replace("~", "~0").replace("/", "~1") for step in steps]
    return "/".join(["", "lines", str(row.line), *escaped])
