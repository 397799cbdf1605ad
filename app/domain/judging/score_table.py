"""Score table: the scores of one model for each reply of each row of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Rank of the better and of the worse reply of a pair.
CHOSEN, REJECTED = 1, 2


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row of a dataset and its scores; the tuples have one entry per reply, in the stored order.

    Rank 1 is the best, equal ranks are ties. ``lengths`` are characters of the reply without the
    prompt. ``gold`` holds the scores of the upload, if it has one for every reply. Equal ``texts``
    mean equal replies, which form no pair.
    """

    line: int
    prompt: str
    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    truncated: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()
    gold: tuple[float, ...] | None = None
    slice: str | None = None
    id: str | None = None

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield index pairs of replies with different ranks and texts, the better one first."""
        for i, better in enumerate(self.ranks):
            for j, worse in enumerate(self.ranks):
                if better < worse and not (self.texts and self.texts[i] == self.texts[j]):
                    yield i, j

    def with_scores(self, scores: Sequence[float]) -> ScoredRow:
        """Return the same row with the scores of another scorer."""
        return replace(self, scores=tuple(map(float, scores)))

    def to_json(self) -> str:
        """Return the row as one line of JSON; equal rows give equal bytes."""
        document: dict[str, Any] = {
            name: value
            for name in self.__slots__
            if (value := getattr(self, name)) is not None and name != "texts"
        }
        if self.texts:  # the file has equal numbers for equal replies, not the texts
            places = {text: place for place, text in reversed(list(enumerate(self.texts)))}
            document["texts"] = [places[text] for text in self.texts]
        return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ScoredRow:
        """Return the row from a decoded line of ``to_json``."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in document.items()
        }
        values["texts"] = tuple(map(str, values.get("texts", ())))
        return cls(**values)


@dataclass(frozen=True)
class PairTable:
    """Pairs of a score table as columns with one entry per pair; all pairs have equal weight."""

    row: Ints  # index of the row in the table
    better: Ints  # index of the reply in the row
    worse: Ints
    margins: Floats  # score of the better reply minus score of the worse one
    cluster: Ints  # number of the prompt, from 0
    length_difference: Floats  # characters of the better reply minus those of the worse one
    slices: tuple[str | None, ...]

    @classmethod
    def of(cls, rows: Sequence[ScoredRow]) -> PairTable:
        """Return the pairs of all rows, in the order of the rows."""
        numbers: dict[str, int] = {}
        found: list[tuple[float, ...]] = []
        slices: list[str | None] = []
        for index, row in enumerate(rows):
            for i, j in row.pairs():
                # Numbered here: a row without a pair makes no prompt of the table.
                cluster = numbers.setdefault(row.prompt, len(numbers))
                margin = row.scores[i] - row.scores[j]
                found.append((index, i, j, margin, cluster, row.lengths[i] - row.lengths[j]))
                slices.append(row.slice)
        table = np.array(found, dtype=np.float64).reshape(-1, 6)
        whole = [table[:, i].astype(np.int64) for i in (0, 1, 2, 4)]
        row_index, better, worse, clusters = whole
        return cls(row_index, better, worse, table[:, 3], clusters, table[:, 5], tuple(slices))

    @property
    def hits(self) -> Floats:
        """1 for a pair in the right order, 0.5 for a tie, 0 for a pair in the wrong order."""
        return half_hits(self.margins)

    def __len__(self) -> int:
        return len(self.margins)


def half_hits(margins: Floats) -> Floats:
    """Return 1 for a positive margin, 0.5 for a tie, 0 for a negative one."""
    return np.where(margins == 0, 0.5, margins > 0).astype(np.float64)


def read_rows(lines: Iterable[bytes]) -> list[ScoredRow]:
    """Return the rows of a file of scores, one JSON object per line."""
    return [ScoredRow.from_json(json.loads(line)) for line in lines]
