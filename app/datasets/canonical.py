"""Preference rows → lines of canonical JSONL, and the summary of a dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticSerializationError, to_json

from app.datasets.row_errors import RowError, shown
from app.domain.rows import RowForm, ranked_pair_count

MAX_SLICES = 100
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class SkippedRows(BaseModel):
    """Rows that were skipped for one reason."""

    model_config = ConfigDict(frozen=True)

    code: str
    count: int
    lines: list[int]
    """The first line numbers."""


class DatasetWarning(BaseModel):
    """Warning about a dataset; ``code`` is a ``WarningCode``."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    lines: list[int] = []
    """Line numbers of the first affected rows."""


class DatasetSummary(BaseModel):
    """Properties of an upload, found while it was read."""

    model_config = ConfigDict(frozen=True)

    row_count: int
    """Stored rows."""
    pair_count: int
    """Number of pairs: one per row of pairs, several per ranked row."""
    rows_by_pairs: dict[int, int]
    """Number of ranked rows by their number of pairs; empty for rows of pairs."""
    row_form: RowForm
    shape: str
    format: Literal["text", "conversational"]
    prompt: Literal["explicit", "implicit"]
    """``explicit`` if every row has its own prompt."""
    has_margin: bool
    has_tools: bool
    is_rendered: bool
    """Whether a chat template seems to have rendered the texts already."""
    slices: dict[str, int]
    """Number of rows by slice label; rows without a label are not counted."""
    ignored_columns: list[str]
    """Columns that were not stored; ``chosen[].name`` for keys of messages."""
    chat_template_kwargs: dict[str, bool | int | float | str] = {}
    """Variables of the chat template that the upload sets for all rows."""
    skipped: list[SkippedRows]
    skippable_share: float
    """Share of rows (0 to 1) that may be skipped; 0 if invalid rows are refused."""
    warnings: list[DatasetWarning]


class RowWriter:
    """Encodes preference rows and collects the statistics of the summary.

    Memory is bounded: it keeps a few hundred labels for an upload of any length.
    """

    def __init__(self) -> None:
        self.row_count = 0
        self.pair_count = 0
        self.rows_by_pairs: Counter[int] = Counter()
        self.slices: Counter[str] = Counter()
        self.is_conversational = False
        self.row_form: RowForm = "pairs"
        self.has_margin = False
        self.has_tools = False
        self.prompt_count = 0

    def canonical_line(self, row: Mapping[str, Any]) -> bytes:
        """Encode a row, whose keys are sorted, as one line of canonical JSONL.

        Raises:
            RowError: a text has half of a surrogate pair, or there are too many slices.
        """
        if (label := row.get("slice")) is not None:
            self._count_slice(label)
        try:
            encoded = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            encoded = _encoded_slowly(row)
        self.row_count += 1
        self.prompt_count += "prompt" in row
        if "replies" in row:
            pair_count = ranked_pair_count(row)
            self.pair_count += pair_count
            self.rows_by_pairs[pair_count] += 1
        else:
            self.pair_count += 1
        if "tools" in row:
            self.has_tools = True
        if self.row_count == 1:
            self._learn_form(row)
        return encoded

    def _count_slice(self, label: str) -> None:
        if label not in self.slices and len(self.slices) >= MAX_SLICES:
            raise RowError(
                "too_many_slices",
                f"{shown(label)} is label number {MAX_SLICES + 1}",
                f"a file may have {MAX_SLICES} slices; use coarser labels",
                column="slice",
            )
        self.slices[label] += 1

    def _learn_form(self, row: Mapping[str, Any]) -> None:
        replies = row.get("replies")
        self.row_form = "ranked" if replies else "pairs"
        reply = replies[0]["reply"] if replies else row["chosen"]
        self.is_conversational = isinstance(reply, list)
        self.has_margin = "margin" in row


def _encoded_slowly(row: Mapping[str, Any]) -> bytes:
    """Encode a row that orjson rejects: it has a lone surrogate or an integer over 64 bits."""
    try:
        return to_json(row) + b"\n"
    except PydanticSerializationError:
        raise _surrogate_error(row) from None


def _surrogate_error(row: Mapping[str, Any]) -> RowError:
    for column, text in _texts("", row):
        if found := _LONE_SURROGATE.search(text):
            return RowError(
                "lone_surrogate",
                f"found half of a surrogate pair at character {found.start() + 1}",
                "the text was cut inside a character such as an emoji; write whole characters",
                column=column,
            )
    return RowError("too_deep", "the row is nested too deeply", "flatten it")


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(f"{path}[{index}]", item)
