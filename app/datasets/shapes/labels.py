"""Labels for the better one of two responses, in the forms that datasets use."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes.sample import value_at

Winner = Literal["a", "b", "tie"]
_BOTH = (
    "tie", "both", "equal", "draw", "same", "tie (bothbad)", "both_bad", "bothbad", "both_good",
    "neither", "no_preference", "equally_good", "about_the_same", "a=b",
)  # fmt: skip
#: Values that name a side in any dataset. 0 and 1 do not: they may be an index or a flag.
SIDE_NAMES: Mapping[str, Winner] = {
    **dict.fromkeys(("a", "model_a", "response_a", "first", "left", "a>b", "a>>b"), "a"),
    **dict.fromkeys(("b", "model_b", "response_b", "second", "right", "b>a", "b>>a"), "b"),
    **dict.fromkeys(_BOTH, "tie"),
}
#: A sentence or a name that names a side: "Response A", "A is slightly better", "model_1".
_SENTENCE = re.compile(
    r"((model|assistant|response|answer|output|completion|candidate|option|reply|summary)_?)?"
    r"(?P<side>[ab]|\d)"
    r"(_(is|was))?(_(much|far|clearly|significantly|slightly))?(_(better|preferred|wins|won))?"
)
_INTEGER = re.compile(r"[+-]?\d+")
_MINUS = ("-", "\N{MINUS SIGN}", "\N{EN DASH}")
_WHOLE = re.compile(r"\s*([+-]?\d+)\.0+\s*")


def names_of_sides(a: str, b: str, labels: Iterable[Any] = ()) -> dict[str, Winner]:
    """Return the label values that name a side if the responses are in columns ``a`` and ``b``.

    Numbers name a side only if the columns end with them: 0 means ``response_0``. ``labels`` are
    the values of the first rows: if they count otherwise, as 0 and 1 beside ``response_1`` and
    ``response_2``, no number names a side. Else a reader that skips 0 would misread each 1.
    """
    own: dict[str, Winner] = {a: "a", b: "b"}
    if a[-1:].isdigit() and b[-1:].isdigit() and a[:-1] == b[:-1]:
        ends = {a[-1], b[-1]}
        texts = (label_text(each) for each in labels if isinstance(each, str | int | float))
        numbers = {text for text in texts if _INTEGER.fullmatch(text)}
        if numbers <= ends or numbers & ends != {"1"}:
            own |= {a[-1]: "a", b[-1]: "b"}
    return own | {name: winner for name, winner in SIDE_NAMES.items() if name not in own}


class Verdict(NamedTuple):
    """The better one of two responses, and the margin if the data have one."""

    winner: Winner
    margin: float | None = None


class Label(Protocol):
    """Reader of the label of a row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the label reads."""

    def read(self, row: Mapping[str, Any]) -> Verdict:
        """Read the label.

        Raises:
            RowError: ``invalid_label``.
        """


@dataclass(frozen=True)
class Signed:
    """A number whose sign names the better response and whose size is the margin; 0 is a tie."""

    column: str
    positive: Literal["a", "b"] = "b"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def read(self, row: Mapping[str, Any]) -> Verdict:
        number = read_number(value_at(row, self.column))
        if number is None:
            raise _invalid(self.column, value_at(row, self.column), "a number; its sign decides")
        if number == 0:
            return Verdict("tie")
        other: Winner = "a" if self.positive == "b" else "b"
        return Verdict(self.positive if number > 0 else other, abs(number))


@dataclass(frozen=True)
class Named:
    """A value that names the better response. Numbers are compared as text: ``"0"``.

    A list holds the votes of several people, as in exports of Argilla; the majority decides.
    """

    column: str
    names: Mapping[str, Winner] = field(default_factory=lambda: SIDE_NAMES)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def read(self, row: Mapping[str, Any]) -> Verdict:
        value = value_at(row, self.column)
        if type(value) in (str, int) and (winner := self.names.get(str(value))):
            return Verdict(winner)  # fast path for nearly all labels
        winners = [self._winner(vote) or _model(row, vote) for vote in _votes(value)]
        if not winners or None in winners:
            known = ", ".join(list(self.names)[:6])
            raise _invalid(self.column, value, f"one of {known} …")
        most = Counter(winners).most_common()
        is_split = len(most) > 1 and most[0][1] == most[1][1]
        return Verdict("tie" if is_split else most[0][0] or "tie")

    def _winner(self, value: str | int | float) -> Winner | None:
        text = label_text(value)
        lower = text.lower()
        exact = (text, lower, lower.strip("[] "))
        if found := next((self.names[name] for name in exact if name in self.names), None):
            return found
        if lower[:1] in _MINUS:
            return None  # -1 is not the name of response_1
        words = re.sub(r"[^a-z0-9]+", "_", lower).strip("_")
        if found := self.names.get(words):
            return found
        sentence = _SENTENCE.fullmatch(words)
        return self.names.get(sentence["side"]) if sentence else None


@dataclass(frozen=True)
class OneHot:
    """A column for each outcome, with 1 or true in exactly one of them."""

    a: str
    b: str
    tie: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.a, self.b, self.tie)

    def read(self, row: Mapping[str, Any]) -> Verdict:
        winners: list[Winner] = []
        outcomes: tuple[tuple[str, Winner], ...] = (
            (self.a, "a"), (self.b, "b"), (self.tie, "tie"),
        )  # fmt: skip
        for column, winner in outcomes:
            value = value_at(row, column)
            if value in (True, "true", "True") or read_number(value) == 1:
                winners.append(winner)
        if len(winners) != 1:
            raise _invalid(self.a, value_at(row, self.a), "1 in exactly one of them")
        return Verdict(winners[0])


@dataclass(frozen=True)
class Scores:
    """A score for each response; the higher score wins, equal scores are a tie."""

    a: str
    b: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.a, self.b)

    def read(self, row: Mapping[str, Any]) -> Verdict:
        numbers = []
        for column in self.columns:
            number = read_number(value_at(row, column))
            if number is None:
                raise _invalid(column, value_at(row, column), "a number")
            numbers.append(number)
        if numbers[0] == numbers[1]:
            return Verdict("tie")
        return Verdict("a" if numbers[0] > numbers[1] else "b")


def _model(row: Mapping[str, Any], name: str | int | float) -> Winner | None:
    """Return the side whose model has this name, for rows with the columns model_a and model_b."""
    a, b = row.get("model_a"), row.get("model_b")
    if a == b or name not in (a, b):
        return None
    return "a" if name == a else "b"


def label_text(value: str | int | float) -> str:
    """Return a label as text: ``True`` and ``1`` differ; ``1``, ``1.0`` and ``"1.0"`` are equal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return whole[1] if (whole := _WHOLE.fullmatch(text)) else text


def _votes(value: Any) -> Iterator[str | int | float]:
    """Yield the votes in a label: one, or those of a list of values or of Argilla's objects."""
    if isinstance(value, str | int | float):
        yield value
    elif isinstance(value, list) and all(isinstance(item, str | dict) for item in value):
        for item in value:
            yield from _votes(item)
    elif isinstance(value, dict) and value.get("status", "submitted") == "submitted":
        ranks, names = value.get("rank"), value.get("value")
        if isinstance(names, list) and isinstance(ranks, list) and ranks and _are_numbers(ranks):
            best = [name for rank, name in zip(ranks, names, strict=False) if rank == min(ranks)]
            yield from best if len(best) == 1 else ["tie"]
        elif names is not None:
            yield from _votes(names)


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def read_number(value: Any) -> float | None:
    """Return a finite number, which may be written as text as in CSV, or None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _invalid(column: str, value: Any, wanted: str) -> RowError:
    found = shown(label_text(value)) if isinstance(value, str | int | float) else kind_of(value)
    return RowError(
        "invalid_label",
        f"found {found}, which does not name the better response",
        f"{column} must be {wanted}; for other values add labels[a]=… and labels[b]=…, where a is "
        "the first response, and labels[tie]=… for rows in which neither is better",
        column=column,
    )
