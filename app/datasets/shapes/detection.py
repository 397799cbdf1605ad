"""Recognise the shape of an upload from its first rows, or suggest a column mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, shown
from app.datasets.shapes.answers import is_ranked
from app.datasets.shapes.mapping import mapped_shape
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import Shape
from app.datasets.shapes.table import SHAPES

_MAX_NAMED = 20
#: Words in column names, for the mapping that an error suggests. A column goes to the first part
#: that has one of its words.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "rejected": ("rejected", "reject", "dispreferred", "nonpreferred", "worse", "worst", "bad",
                 "loser", "losing", "lose", "negative", "incorrect", "wrong", "k"),
    "chosen": ("chosen", "choose", "preferred", "better", "best", "good", "winner", "winning",
               "win", "positive", "accepted", "correct", "j"),
    "prompt": ("prompt", "question", "query", "instruction", "instructions", "input", "inputs",
               "context", "post", "problem", "request", "user", "conversation", "conversations",
               "messages", "history", "title", "task"),
    "system": ("system",),
}  # fmt: skip
_LABEL_WORDS = ("label", "labels", "winner", "preference", "preferred", "better", "choice",
                "chosen", "vote", "verdict")  # fmt: skip
_RESPONSE = re.compile(
    r"(?P<stem>.*?(response|answer|completion|output|reply|candidate|text|summary|generation)s?)"
    r"[-_ ]?(?P<end>a|b|0|1|2)",
    re.IGNORECASE,
)
#: Columns of the only reply of a row in files without pairs.
_SINGLE_REPLIES = frozenset(
    {"completion", "response", "answer", "output", "reply", "messages", "conversations"}
)
_ENDS = (("a", "b"), ("0", "1"), ("1", "2"))


@dataclass(frozen=True)
class Recognised:
    """A shape, and the columns to rename first if only the case of their names differs."""

    shape: Shape
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def conversions(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """Functions to apply to each row, in this order, before the shape reads it."""
        found: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        if self.rename:
            found.append(partial(renamed, rename=self.rename))
        if self.shape.convert is not None:
            found.append(self.shape.convert)
        return found


def recognise(sample: Sample, options: ReadOptions) -> Recognised:
    """Recognise the shape of an upload.

    Raises:
        FileError: ``missing_column`` if no shape fits; the message lists the columns and the hint
            suggests a mapping.
    """
    if options.columns or options.labels:
        return Recognised(mapped_shape(options, sample))
    for shape in SHAPES:
        if shape.fits(sample):
            return Recognised(shape)
    rename = {name: name.strip().lower() for name in sample.columns}
    if len(set(rename.values())) == len(rename):
        lowered = Sample(tuple((line, renamed(row, rename)) for line, row in sample.rows))
        for shape in SHAPES:
            if shape.fits(lowered):
                return Recognised(shape, rename)
    raise unknown_shape(_paths(sample), _answers_column(sample))


def renamed(row: dict[str, Any], rename: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with its columns renamed."""
    return {rename.get(name, name): value for name, value in row.items()}


def unknown_shape(columns: tuple[str, ...], answers: str | None = None) -> FileError:
    """Return the error for an upload without a known shape; ``answers`` may hold replies."""
    found = ", ".join(shown(name) for name in columns[:_MAX_NAMED]) or "no columns"
    missing = next((part for part in ("chosen", "rejected") if part not in columns), "chosen")
    if is_unpaired(columns):
        hint = "put the good and the bad reply to one prompt into one row, as chosen and rejected"
        message = f"each row has one reply, which is not a pair (the file has: {found})"
        return FileError("missing_column", message, hint, column=missing)
    mapping = suggestion(columns, answers)
    hint = (
        f"map the columns: ?{mapping}"
        if mapping
        else "name the columns prompt, chosen and rejected, or map your columns: "
        "?columns[prompt]=…&columns[chosen]=…&columns[rejected]=…"
    )
    is_half = "chosen" in columns or "rejected" in columns
    problem = f"{missing} is missing" if is_half else "the columns match no known shape"
    return FileError("missing_column", f"{problem} (the file has: {found})", hint, column=missing)


def is_prompt_like(name: str) -> bool:
    """Return whether the name of a column suggests that it holds the prompt."""
    return _has(name, _WORDS["prompt"])


def _paths(sample: Sample) -> tuple[str, ...]:
    """Return the columns; if an only object holds the keys of a pair, return its keys as paths."""
    for column in sample.columns:
        keys = {key for value in sample.values(column) if isinstance(value, dict) for key in value}
        if {"chosen", "rejected"} <= keys:
            return tuple(f"{column}.{key}" for key in sorted(keys))
    return sample.columns


def _answers_column(sample: Sample) -> str | None:
    """Return the first column that holds lists of objects with a text and a rank or a score."""
    for column in sample.columns:
        if any(map(is_ranked, sample.values(column))):
            return column
    return None


def is_unpaired(columns: tuple[str, ...]) -> bool:
    """Return whether the columns hold one reply a row, as for KTO or supervised fine-tuning."""
    names = {name.strip().lower() for name in columns}
    return len(names & _SINGLE_REPLIES) == 1 and not any(
        _has(name, (*_WORDS["chosen"], *_WORDS["rejected"])) for name in names
    )


def suggestion(columns: tuple[str, ...], answers: str | None = None) -> str | None:
    """Return the most likely column mapping as a query string, or None."""
    guessed = _guess_responses(columns) or _guess_sides(columns)
    if guessed is None and answers is not None:
        guessed = {"answers": answers}
    if guessed is None:
        return None
    taken = set(guessed.values())
    for part in ("prompt", "system"):
        words = _WORDS[part]
        if name := next((n for n in columns if n not in taken and _has(n, words)), None):
            guessed = {part: name} | guessed
            taken.add(name)
    return "&".join(f"columns[{part}]={column}" for part, column in guessed.items())


def _guess_sides(columns: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for part in ("rejected", "chosen"):
        for name in columns:
            if name not in found.values() and _has(name, _WORDS[part]):
                found[part] = name
                break
    if len(found) < 2:
        return None
    return {"chosen": found["chosen"], "rejected": found["rejected"]}


def _guess_responses(columns: tuple[str, ...]) -> dict[str, str] | None:
    ends: dict[tuple[str, str], str] = {}
    for name in columns:
        if found := _RESPONSE.fullmatch(name):
            ends[(found["stem"].lower(), found["end"].lower())] = name
    for stem, _ in ends:
        for one, other in _ENDS:
            if (stem, one) in ends and (stem, other) in ends:
                a, b = ends[stem, one], ends[stem, other]
                label = next((n for n in columns if _has(n, _LABEL_WORDS)), None)
                if label is None:
                    return None
                return {"response_a": a, "response_b": b, "label": label}
    return None


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(
        word in words for word in re.split(r"[^a-z0-9]+", name.lower().replace("non_", "non"))
    )
