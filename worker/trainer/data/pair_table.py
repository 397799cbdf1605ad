"""Training or eval pairs as a sequence that reads from disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from worker.reward_model.token_cache import Ids
from worker.reward_model.truncation import truncate_left
from worker.trainer.data.pair_records import HAS_MARGIN, NO_REPLY
from worker.trainer.data.tokenized_file import TokenizedFile


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair as token ids."""

    line: int  # line number in the upload
    chosen: Ids
    rejected: Ids
    margin: float | None
    slice: str | None
    prompt: bytes  # digest of the prompt: a split keeps the pairs of a prompt together
    replies: tuple[int, int] | None = None  # indices in a ranked row, whose pairs share the line


@dataclass(frozen=True)
class Cut:
    """Left truncation of texts with over ``max_length`` tokens; the first ``kept`` ones stay."""

    kept: int
    max_length: int


class PairTable(Sequence[Pair]):
    """Pairs of a tokenised file, selected by their indices. Pairs are created on access."""

    def __init__(
        self, file: TokenizedFile, places: NDArray[np.int64], cut: Cut | None = None
    ) -> None:
        self.file = file
        self.places = places
        self._cut = cut

    def column(self, name: str) -> NDArray[Any]:
        """Return one field of the pairs' records. The whole records take ten times as much."""
        values: NDArray[Any] = self.file.records[name][self.places]
        self.file.files.release()
        return values

    @property
    def whole(self) -> PairTable:
        """The same pairs without truncation."""
        return PairTable(self.file, self.places)

    def where(self, mask: NDArray[np.bool_]) -> PairTable:
        """Return the pairs for which the mask is true."""
        return PairTable(self.file, self.places[mask], self._cut)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairTable: ...
    def __getitem__(self, index: int | slice) -> Pair | PairTable:
        if isinstance(index, slice):
            return PairTable(self.file, self.places[index], self._cut)
        record = self.file.records[self.places[index]]
        better, worse = int(record["better"]), int(record["worse"])
        return Pair(
            line=int(record["line"]),
            chosen=self._text(int(record["chosen_text"])),
            rejected=self._text(int(record["rejected_text"])),
            margin=float(record["margin"]) if record["flags"] & HAS_MARGIN else None,
            slice=self.file.slices[record["slice"]] if record["slice"] >= 0 else None,
            prompt=record["prompt"].tobytes(),
            replies=None if better == NO_REPLY else (better, worse),
        )

    def _text(self, number: int) -> Ids:
        ids = self.file.text(number)
        if self._cut is None or len(ids) <= self._cut.max_length:
            return ids
        cut = truncate_left(ids.tolist(), kept=self._cut.kept, max_length=self._cut.max_length)
        return np.asarray(cut, dtype=np.int32)

    def __iter__(self) -> Iterator[Pair]:
        return map(self.__getitem__, range(len(self)))
