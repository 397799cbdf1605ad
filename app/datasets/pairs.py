"""One row → one preference pair, checked; all rows of a file → one shape.

A pair is stored as one line of canonical JSONL: UTF-8, keys sorted, no spaces, ended by ``\\n``::

    {"chosen": C, "line": n, "margin"?: float, "prompt"?: C, "rejected": C, "slice"?: str}

where every ``C`` of a file is either text (``str``) or a conversation
(``[{"content": str, "role": "system" | "user" | "assistant"}, …]``), ``prompt`` and ``margin`` are
in all lines or in none, and ``line`` is the row's place in the uploaded file, from 1. Split it at
``\\n`` only: texts may hold U+2028 and U+0085, which ``str.splitlines`` takes for line ends.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticSerializationError, to_json

from app.datasets.conversations import check_sides, checked_side
from app.datasets.row_errors import RowError, kind_of, shown

COLUMNS = ("prompt", "chosen", "rejected", "margin", "slice")
_COLUMN_SET = frozenset(COLUMNS)
REFUSED_COLUMNS = ("tools", "chat_template_kwargs")
MAX_SLICES = 100
MAX_SLICE_CHARACTERS = 64
_MAX_IGNORED_COLUMNS = 100
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class DatasetSummary(BaseModel):
    """What a file of preference pairs turned out to be."""

    model_config = ConfigDict(frozen=True)

    pair_count: int
    format: Literal["text", "conversational"]
    prompt: Literal["explicit", "implicit"]
    has_margin: bool
    slices: dict[str, int]
    """Pairs per slice label; pairs without a label are in none."""
    ignored_columns: list[str]
    """Columns that were in the file and were not kept; ``chosen[].name`` for keys of messages."""


class PairChecker:
    """Turns rows into pairs and holds them to the shape of the first good one.

    Memory: a few hundred labels, whatever the file's length.
    """

    def __init__(self) -> None:
        self.pair_count = 0
        self._shape: tuple[str, str, bool] | None = None
        self._shape_line = 0
        self._slices: Counter[str] = Counter()
        self._ignored: set[str] = set()

    def canonical_line(self, line: int, row: Mapping[str, Any]) -> bytes:
        """The row as a line of canonical JSONL.

        Raises:
            RowError: the row is no preference pair, or unlike the rows before it.
        """
        pair = normalise(row)
        self._agree(pair)
        try:
            encoded = to_json(dict(sorted((pair | {"line": line}).items()))) + b"\n"
        except PydanticSerializationError:
            raise _surrogate_error(pair) from None
        self._count(line, row, pair)
        return encoded

    def summary(self) -> DatasetSummary:
        """What the rows so far have in common; there must have been one."""
        if self._shape is None:
            raise ValueError("no pair was read")
        form, prompt, has_margin = self._shape
        return DatasetSummary.model_validate(
            {
                "pair_count": self.pair_count,
                "format": form,
                "prompt": prompt,
                "has_margin": has_margin,
                "slices": dict(sorted(self._slices.items())),
                "ignored_columns": sorted(self._ignored)[:_MAX_IGNORED_COLUMNS],
            }
        )

    def _agree(self, pair: Mapping[str, Any]) -> None:
        shape = _shape_of(pair)
        if self._shape is None or self._shape == shape:
            return
        form, prompt, has_margin = self._shape
        first = f"line {self._shape_line}"
        if form != shape[0]:
            raise RowError(
                "mixed_format",
                f"this row is {shape[0]}, {first} is {form}",
                "use text in all rows, or lists of messages in all rows",
                column="chosen",
            )
        if prompt != shape[1]:
            found = "has a prompt" if shape[1] == "explicit" else "has no prompt"
            raise RowError(
                "mixed_prompt",
                f"this row {found}, unlike {first}",
                "give a prompt in all rows, or in none",
                column="prompt",
            )
        found = "has no margin" if has_margin else "has a margin"
        raise RowError(
            "mixed_margin",
            f"this row {found}, unlike {first}",
            "margin must be a finite number in all rows, or in none",
            column="margin",
        )

    def _count(self, line: int, row: Mapping[str, Any], pair: Mapping[str, Any]) -> None:
        label = pair.get("slice")
        if label is not None:
            if label not in self._slices and len(self._slices) >= MAX_SLICES:
                raise RowError(
                    "too_many_slices",
                    f"{shown(label)} is label number {MAX_SLICES + 1}",
                    f"a file may have {MAX_SLICES} slices; use coarser labels",
                    column="slice",
                )
            self._slices[label] += 1
        if self._shape is None:
            self._shape, self._shape_line = _shape_of(pair), line
        self.pair_count += 1
        if len(self._ignored) < _MAX_IGNORED_COLUMNS:
            self._ignored.update(_ignored_columns(row))


def normalise(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's known columns, checked; ``null`` means that the optional column is not there.

    Other columns are dropped: TRL takes a stray ``messages`` or ``completion`` for the format of
    the whole file, in an order that hangs on the hash seed.

    Raises:
        RowError: names the field, what was found and what to write instead.
    """
    for name in REFUSED_COLUMNS:
        if row.get(name):
            raise RowError(
                "unsupported_column",
                f"{name} is not supported yet",
                "leave the column out, or write its text into the conversation",
                column=name,
            )
    if missing := [name for name in ("chosen", "rejected") if row.get(name) is None]:
        found = ", ".join(shown(name) for name in list(row)[:10]) or "no columns"
        null = "is null" if missing[0] in row else "is missing"
        raise RowError(
            "missing_column",
            f"{missing[0]} {null} (the row has: {found})",
            "each row needs chosen and rejected",
            column=missing[0],
        )
    pair: dict[str, Any] = {name: checked_side(name, row[name]) for name in ("chosen", "rejected")}
    if row.get("prompt") is not None:
        pair["prompt"] = checked_side("prompt", row["prompt"])
    check_sides(pair)
    if row.get("margin") is not None:
        pair["margin"] = _margin(row["margin"])
    if row.get("slice") is not None:
        pair["slice"] = _slice(row["slice"])
    return pair


def _margin(value: Any) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if math.isfinite(number) and number >= 0:
        return number + 0.0  # -0.0 becomes 0.0
    raise RowError(
        "invalid_margin",
        f"found {shown(value) if isinstance(value, str | int | float) else kind_of(value)}",
        "margin must be a finite number, 0 or more, in all rows or in none",
        column="margin",
    )


def _slice(value: Any) -> str:
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
        column="slice",
    )


def _shape_of(pair: Mapping[str, Any]) -> tuple[str, str, bool]:
    return (
        "text" if isinstance(pair["chosen"], str) else "conversational",
        "explicit" if "prompt" in pair else "implicit",
        "margin" in pair,
    )


def _ignored_columns(row: Mapping[str, Any]) -> set[str]:
    ignored = {shown(name)[1:-1] for name in row.keys() - _COLUMN_SET}
    for name in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(name), list):
            continue
        for message in row[name]:
            if len(message) > 2:
                extra = message.keys() - {"role", "content"}
                ignored.update(f"{name}[].{shown(key)[1:-1]}" for key in extra)
    return ignored


def _surrogate_error(pair: Mapping[str, Any]) -> RowError:
    for name in ("prompt", "chosen", "rejected"):
        side = pair.get(name, "")
        texts = [(name, side)]
        if isinstance(side, list):
            texts = [(f"{name}[{i}].content", item["content"]) for i, item in enumerate(side)]
        for column, text in texts:
            if found := _LONE_SURROGATE.search(text):
                return RowError(
                    "lone_surrogate",
                    f"found half of a surrogate pair at character {found.start() + 1}",
                    "the text was cut inside an emoji or the like; write whole characters",
                    column=column,
                )
    raise AssertionError("no surrogate in a pair that cannot be encoded")
