"""Tokenise a file to token ids and pair records on disk, with the token cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.rows import draw_pairs
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import CacheEntry, Draft, EntryFiles, Ids
from worker.trainer.data.pair_records import NO_REPLY, PAIR, Records
from worker.trainer.data.row_encoder import EncodedRows, encode_file

IDS, ENDS, RECORDS, SLICES = "ids.bin", "ends.bin", "pairs.bin", "slices.json"
_NAMES = (IDS, ENDS, RECORDS, SLICES)
#: Number of records in a block.
BLOCK_RECORDS = 65_536

#: Called with the line number and the problem of a row that cannot be tokenised.
OnInvalid = Callable[[int, str], None]
#: Called with the number of finished rows.
OnRows = Callable[[int], None]


@dataclass(frozen=True)
class PairFile:
    """A canonical JSONL file of rows, with the settings of its tokenisation."""

    path: Path
    entry: CacheEntry | None = None
    pairs_per_row: int | None = None
    """Number of training pairs per ranked row, drawn with ``seed``; None: all."""
    seed: int = 0
    skippable_share: float = 0.0
    """Share of rows (0 to 1) that may be skipped because they cannot be rendered."""
    draft_dir: Path = field(default_factory=Path)
    """Directory for files that are not in the cache."""
    processes: int = 1


@dataclass(frozen=True)
class TokenizedFile:
    """The pairs of a file that can be rendered: token ids of all texts, their ends, and records."""

    ids: Ids
    ends: NDArray[np.int64]
    records: Records
    slices: list[str]
    files: EntryFiles

    @classmethod
    def of(cls, files: EntryFiles) -> TokenizedFile:
        """Create a view of the files."""
        return cls(
            ids=files.array(IDS, np.int32),
            ends=files.array(ENDS, np.int64),
            records=files.array(RECORDS, PAIR),
            slices=json.loads(files.array(SLICES, np.uint8).tobytes()),
            files=files,
        )

    def text(self, number: int) -> Ids:
        """Return the token ids of a text, by its index."""
        return self.ids[self.ends[number - 1] if number else 0 : self.ends[number]]

    def lengths(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each text."""
        starts = np.where(texts > 0, self.ends[texts - 1], 0)
        lengths: NDArray[np.int64] = self.ends[texts] - starts
        return lengths

    def last_tokens(self, texts: NDArray[np.int64]) -> Ids:
        """Return the last token of each text; the texts must not be empty."""
        return self.ids[self.ends[texts] - 1]

    def blocks(self) -> Iterator[PairBlock]:
        """Yield all pairs in blocks; keep none of them in memory after its turn."""
        for start in range(0, len(self.records), BLOCK_RECORDS):
            records = self.records[start : start + BLOCK_RECORDS]
            chosen, rejected = (self.lengths(records[s]) for s in ("chosen_text", "rejected_text"))
            yield PairBlock(start, records, chosen, rejected, self.files.release)
            self.files.release()


@dataclass(frozen=True)
class PairBlock:
    """Consecutive records, the index of the first one, and the lengths of their texts in tokens."""

    start: int
    records: Records
    chosen_lengths: NDArray[np.int64]
    rejected_lengths: NDArray[np.int64]
    release: Callable[[], None] = lambda: None
    """Unloads the records, which are on disk."""

    def where(self, mask: NDArray[np.bool_]) -> PairBlock:
        """Return the records for which the mask is true; ``start`` then has no meaning."""
        return replace(
            self,
            records=self.records[mask],
            chosen_lengths=self.chosen_lengths[mask],
            rejected_lengths=self.rejected_lengths[mask],
        )


def tokenize_file(
    file: PairFile,
    tokenizer: PairTokenizer,
    on_invalid: OnInvalid,
    on_rows: OnRows = lambda _: None,
) -> TokenizedFile:
    """Tokenise all pairs of the rows that can be rendered; call ``on_invalid`` for other rows.

    The cache is used if it has the file. Otherwise the result is written to the cache, if all rows
    can be rendered.
    """
    if file.entry and (cached := file.entry.read()):
        return TokenizedFile.of(cached)
    slices: list[str] = []
    with Draft(file.draft_dir, _NAMES) as draft:
        rows = texts = tokens = 0
        are_all_valid = True
        for chunk in encode_file(file.path, tokenizer, file.processes):
            for line, problem in chunk.invalid:
                are_all_valid = False
                on_invalid(line, problem)
            records = _of_file(chunk, rows, texts, slices)
            ends = tokens + np.cumsum(chunk.lengths, dtype=np.int64)
            draft.add(IDS, chunk.ids)
            draft.add(ENDS, ends)
            draft.add(RECORDS, records)
            rows += chunk.row_count
            texts += len(chunk.lengths)
            tokens += len(chunk.ids)
            on_rows(rows)
        draft.add(SLICES, np.frombuffer(json.dumps(slices).encode(), dtype=np.uint8))
        tokenized = TokenizedFile.of(draft.files())
        if file.entry and are_all_valid:
            file.entry.publish(draft)
        return tokenized


def drawn_pairs(file: PairFile, records: Records) -> NDArray[np.bool_]:
    """Return a mask of the pairs to train on: all, or the drawn ones of ranked rows."""
    if file.pairs_per_row is None or not len(records):
        return np.ones(len(records), dtype=np.bool_)
    is_drawn = records["better"] == NO_REPLY
    starts = np.flatnonzero(np.diff(records["row"], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(records)], strict=True):
        if not is_drawn[start]:
            line = int(records["line"][start])
            drawn = draw_pairs(end - start, file.pairs_per_row, f"{file.seed} {line}")
            is_drawn[start + np.array(drawn)] = True
    return np.asarray(is_drawn)


def _of_file(chunk: EncodedRows, rows: int, texts: int, slices: list[str]) -> Records:
    """Return the records of a chunk with indices relative to the file."""
    records = chunk.records
    records["row"] += rows
    records["chosen_text"] += texts
    records["rejected_text"] += texts
    numbers: list[Any] = [-1]
    for label in chunk.slices:
        if label not in slices:
            slices.append(label)
        numbers.append(slices.index(label))
    records["slice"] = np.array(numbers, dtype=np.int32)[records["slice"] + 1]
    return records
