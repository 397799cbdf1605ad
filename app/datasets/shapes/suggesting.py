"""Error for an upload of an unknown shape, with a column mapping that fits its first rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, RowError, shown
from app.datasets.shapes.answers import has_texts, is_ranked
from app.datasets.shapes.assembling import RowAssembler
from app.datasets.shapes.column_names import WORDS, rank, twins, words_in
from app.datasets.shapes.file_form import FileForm
from app.datasets.shapes.forms import SEVERAL, Form, form_of
from app.datasets.shapes.labels import read_number
from app.datasets.shapes.mapping import mapped_shape
from app.datasets.shapes.sample import Sample, value_at
from app.datasets.unused import UnusedFields, is_descriptive, is_harmless

_MAX_NAMED = 20
_MAX_IGNORED = 20
_MAX_KEYS = 12
_LABEL_WORDS = ("label", "labels", "winner", "preference", "preferred", "better", "choice",
                "chosen", "vote", "verdict", "comparison")  # fmt: skip
_REPLY_WORDS = ("response", "answer", "completion", "output", "reply", "candidate", "generation",
                "summary", "text", "conversation", "conv")  # fmt: skip
_SCORE_WORDS = ("score", "scores", "rating", "ratings", "reward", "rewards", "votes")
#: Columns of the only reply of a row in files without pairs.
_SINGLE_REPLIES = frozenset(
    {"completion", "response", "answer", "output", "reply", "messages", "conversations", "text"}
)
_GENERAL = (
    "name the columns prompt, chosen and rejected, or map your columns: "
    "?columns[prompt]=…&columns[chosen]=…&columns[rejected]=…"
)
Guess = dict[str, str]


def unknown_shape(sample: Sample) -> FileError:
    """Return the error for an upload without a known shape: its columns, and a mapping if any."""
    columns = _paths(sample)
    found = ", ".join(shown(name) for name in columns[:_MAX_NAMED]) or "no columns"
    missing = next((part for part in ("chosen", "rejected") if part not in columns), "chosen")
    is_half = "chosen" in columns or "rejected" in columns
    problem = f"{missing} is missing" if is_half else "the columns match no known shape"
    hint = _GENERAL
    guesses = [guess for look in _LOOKS if (guess := look(sample, columns)) is not None]
    tried = [_tried(sample, _with_prompt(sample, columns, guess)) for guess in guesses]
    if best := next((each for each in tried if each.is_usable), None):
        hint = best.hint
    elif best := next((each for each in tried if each.problem), None):
        hint = f"{_GENERAL}. {best.query} does not fit: {best.problem}"
    elif (inner := _column_of_rows(sample)) is not None:
        problem = f"the file is one object, and its rows seem to be in {shown(inner)}"
        hint = "upload that list alone as a JSON array, or one object per line"
    elif _are_steps(sample):
        problem = "the labels are for the steps of one reply, which are not pairs"
        hint = "put a good and a bad solution of one problem into one row, as chosen and rejected"
    elif _is_unpaired(sample, columns):
        problem = "each row has one reply, which is not a pair"
        hint = "put the good and the bad reply to one prompt into one row, as chosen and rejected"
    elif responses := _responses(sample, columns):
        names = " and ".join(map(shown, responses[0]))
        problem = f"no column says which of {names} is better"
        hint = "add a column with a, b or tie, and map it with columns[label]=…"
    return FileError("missing_column", f"{problem} (the file has: {found})", hint, column=missing)


def _is_unpaired(sample: Sample, columns: tuple[str, ...]) -> bool:
    """Return whether the columns hold one reply a row, as for KTO or supervised fine-tuning."""
    names = {name.strip().lower(): name for name in columns}
    single = [name for name in names if name in _SINGLE_REPLIES - {"text"}]
    if len(single) != 1:
        return False
    sides = ("chosen", "rejected")
    if any(rank(name, part) < len(WORDS[part]) for name in names for part in sides):
        return False
    forms = sample.forms(names[single[0]])
    is_reply = not forms & SEVERAL and not any(
        map(_has_candidates, sample.values(names[single[0]]))
    )
    others = (value for name in columns for value in sample.values(name) if name not in single)
    return is_reply and not any(
        has_texts(value) and Form.MESSAGE not in map(form_of, value) for value in others
    )


def _has_candidates(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, dict) and "candidates" in v for v in value)


def _column_of_rows(sample: Sample) -> str | None:
    """Return the column with the rows, if the file is one object around them."""
    row = sample.rows[0][1] if len(sample.rows) == 1 else {}
    for name, value in row.items():
        items = value if isinstance(value, list) else []
        are_rows = all(isinstance(item, dict) and len(item) > 1 for item in items)
        if items and are_rows and Form.MESSAGE not in map(form_of, items):
            return name
    return None


def _are_steps(sample: Sample) -> bool:
    """Return whether labels are given for each step, as for process reward models."""
    if any(isinstance(each, dict) and "steps" in each for each in sample.values("label")):
        return True
    return sample.has("completions") and any(isinstance(v, list) for v in sample.values("labels"))


def _paths(sample: Sample) -> tuple[str, ...]:
    """Return the columns; for a column of objects that are no messages, the paths of its keys."""
    names: list[str] = []
    for column in sample.columns:
        values = [value for value in sample.values(column) if isinstance(value, dict)]
        keys = sorted({key for value in values for key in value})
        is_parted = 0 < len(keys) <= _MAX_KEYS and Form.MESSAGE not in map(form_of, values)
        names += [f"{column}.{key}" for key in keys] if is_parted else [column]
    return tuple(names)


# --- guesses ------------------------------------------------------------------------------------


def _guess_sides(sample: Sample, columns: tuple[str, ...]) -> Guess | None:
    rejected = _best(sample, columns, "rejected")
    chosen = _best(sample, (name for name in columns if name != rejected), "chosen")
    if rejected is not None and chosen is None:
        single = [name for name in columns if name.lower() in _SINGLE_REPLIES and name != rejected]
        chosen = single[0] if len(single) == 1 else None
    return {"chosen": chosen, "rejected": rejected} if chosen and rejected else None


def _guess_responses(sample: Sample, columns: tuple[str, ...]) -> Guess | None:
    for a, b in _responses(sample, columns):
        sides = {"response_a": a, "response_b": b}
        rest = tuple(name for name in columns if name not in (a, b))
        words = [(name, words_in(name)) for name in rest]
        labels = (name for name, each in words if each & {*_LABEL_WORDS} and not is_harmless(name))
        if label := next(labels, None):
            return {**sides, "label": label}
        for one, other in twins(rest):
            if words_in(one) & {*_SCORE_WORDS} and _are_numbers(sample, one, other):
                return {**sides, "score_a": one, "score_b": other}
    return None


def _guess_answers(sample: Sample, columns: tuple[str, ...]) -> Guess | None:
    for column in columns:
        if any(map(is_ranked, sample.values(column))):
            return {"answers": column}
    lists = {name: next(sample.values(name), None) for name in columns}
    for name, value in lists.items():
        if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], str):
            continue
        for other, numbers in lists.items():
            if isinstance(numbers, list) and len(numbers) == len(value) and other != name:
                is_number = all(read_number(each) is not None for each in numbers)
                if is_number and words_in(other) & {*_SCORE_WORDS}:
                    return {"answers": name, "scores": other}
                if is_number and words_in(other) & {"rank", "ranks"}:
                    return {"answers": name, "ranks": other}
    return None


_LOOKS: tuple[Callable[[Sample, tuple[str, ...]], Guess | None], ...] = (
    _guess_sides, _guess_responses, _guess_answers,
)  # fmt: skip


def _with_prompt(sample: Sample, columns: tuple[str, ...], guess: Guess) -> Guess:
    for part in ("prompt", "system"):
        rest = (name for name in columns if name not in guess.values())
        if name := _best(sample, rest, part):
            guess = {part: name} | guess
    return guess


def _best(sample: Sample, columns: Iterable[str], part: str) -> str | None:
    """Return the column with the earliest of the words of a part, and with few other words."""
    ranked = [
        (rank(name, part), len(words_in(name)), index, name)
        for index, name in enumerate(columns)
        if _may_be_part(sample, name, part)
    ]
    known = [each for each in ranked if each[0] < len(WORDS[part])]
    return min(known)[-1] if known else None


def _may_be_part(sample: Sample, name: str, part: str = "prompt") -> bool:
    """Return whether a column has mostly texts, and no name of something else."""
    if any(map(is_descriptive, (name, name.partition(".")[0]))):
        return False
    if is_harmless(name) and name.lower() not in WORDS[part]:
        return False
    if part == "prompt" and "system" in words_in(name):
        return False
    values = list(sample.values(name))
    held = [value for value in values if isinstance(value, str | list | dict) and value]
    return 2 * len(held) > len(values)


def _responses(sample: Sample, columns: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs of columns that may hold two responses, best guess first."""
    pairs = [pair for pair in twins(columns) if all(_may_be_part(sample, name) for name in pair)]
    return [pair for pair in pairs if any(word in pair[0].lower() for word in _REPLY_WORDS)]


def _are_numbers(sample: Sample, *columns: str) -> bool:
    numbers = [read_number(value) for column in columns for value in sample.values(column)]
    return bool(numbers) and None not in numbers


# --- the test of a guess ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tried:
    query: str
    """The mapping as a query string."""
    hint: str
    is_usable: bool
    problem: str = ""


def _tried(sample: Sample, guess: Guess) -> _Tried:
    """Read the first rows with a mapping; ignore the columns that it would refuse."""
    ignored: list[str] = []
    note = ""
    query = "?" + "&".join(f"columns[{part}]={_quoted(name)}" for part, name in guess.items())
    while len(ignored) <= _MAX_IGNORED:
        try:
            errors = _errors(sample, guess, ignored)
        except FileError as error:
            if error.code != "unused_column" or not error.column:
                return _Tried(query, "", is_usable=False, problem=error.message)
            ignored.append(error.column)
            continue
        if ignored:
            query += f"&ignore_columns={','.join(map(_quoted, ignored))}"
        if len(errors) == len(sample.rows):
            label = value_at(sample.rows[0][1], guess.get("label", ""))
            if errors[0].code != "invalid_label" or isinstance(label, list | dict | None):
                problem = f"{errors[0].column}: {errors[0].message}"
                return _Tried(query, "", is_usable=False, problem=problem)
            query += "&labels[a]=…&labels[b]=…"
            note = f" ({errors[0].message})"
        elif ignored:
            note = f" (without the text of {', '.join(map(shown, ignored))})"
        return _Tried(query, f"map the columns: {query}{note}", is_usable=True)
    return _Tried(query, "", is_usable=False)


def _errors(sample: Sample, guess: Guess, ignored: list[str]) -> list[RowError]:
    rows = [
        (line, {name: value for name, value in row.items() if name not in ignored})
        for line, row in sample.rows
    ]
    sample = Sample(tuple(rows))
    parts = mapped_shape(ReadOptions(columns=guess), sample).parts
    form = FileForm.of(parts, sample)
    used = form.columns.used(parts)
    unused = UnusedFields(used=used)
    assemble = RowAssembler(parts, form, unused)
    errors = []
    for line, row in rows:
        try:
            assemble(line, row)
        except RowError as error:
            errors.append(error)
    return errors


def _quoted(name: Any) -> str:
    return quote(str(name), safe="._-:/")
