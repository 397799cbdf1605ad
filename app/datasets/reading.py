"""An upload's bytes → canonical JSONL, checked as it streams::

    reader = DatasetReader()
    for block in reader.read(chunks, "jsonl"):   # or reader.read_parquet(path)
        store(block)                             # canonical JSONL, some 256 KiB at a time
    reader.summary                               # or InvalidDatasetError out of the loop

Pull, not push: the endpoint's thread hands in an iterator over the request's chunks, and may hash
or store each as it goes by. Beyond one chunk, memory stays within a few MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.datasets.byte_streams import at_most, plain_text, split_lines
from app.datasets.csv_rows import csv_rows
from app.datasets.json_rows import jsonl_rows
from app.datasets.pairs import DatasetSummary, PairChecker
from app.datasets.parquet import parquet_rows
from app.datasets.row_errors import (
    MAX_REPORTED,
    FileError,
    InvalidDatasetError,
    Row,
    RowError,
    RowProblem,
)

TextFormat = Literal["jsonl", "csv"]

_BLOCK_BYTES = 256 << 10
_ROWS = {"jsonl": jsonl_rows, "csv": csv_rows}


@dataclass(frozen=True)
class ReadLimits:
    """How much one upload may hold, once unpacked."""

    max_bytes: int = 4 << 30
    max_rows: int = 5_000_000
    max_bad_lines: int = 1_000
    """Bad lines are counted up to here; a file with more is not read to its end."""


class DatasetReader:
    """Reads one upload, once; after its last block ``summary`` says what was in it.

    Exceptions of the chunk iterator (a client that went away, a size limit) pass through.
    """

    summary: DatasetSummary

    def __init__(self, limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._checker = PairChecker()
        self._problems: list[RowProblem] = []
        self._bad_line_count = 0

    def read(self, chunks: Iterable[bytes], text_format: TextFormat) -> Iterator[bytes]:
        """Canonical JSONL of a JSONL or CSV file, plain or gzipped (told by its first bytes).

        After the first bad line nothing more is yielded; the rest is read to count them.

        Raises:
            InvalidDatasetError: after the last line; what was yielded before must not be kept.
        """
        plain = at_most(plain_text(chunks), self._limits.max_bytes)
        yield from self._blocks(_ROWS[text_format](split_lines(plain)))

    def read_parquet(self, path: Path) -> Iterator[bytes]:
        """Canonical JSONL of a Parquet file, which is parsed in a process of its own.

        Raises:
            InvalidDatasetError: as ``read`` does; ``line`` is the row's number, from 1.
        """
        rows = parquet_rows(path, self._limits.max_rows, self._limits.max_bytes)
        with closing(rows):  # ends the child when the caller goes away
            yield from self._blocks(rows)

    def _blocks(self, rows: Iterable[Row]) -> Iterator[bytes]:
        line, block = 0, bytearray()
        try:
            for line, row in rows:
                block += self._checked(line, row)
                if self._bad_line_count:
                    block.clear()
                elif len(block) >= _BLOCK_BYTES:
                    yield bytes(block)
                    block.clear()
        except FileError as error:
            self._note(error.at(max(line, 1)))
            raise self._refusal(is_counted_to_end=False) from None
        if not self._bad_line_count and not self._checker.pair_count:
            hint = "give at least one row with chosen and rejected"
            self._note(RowError("empty_dataset", "dataset has no rows", hint).at(max(line, 1)))
        if self._bad_line_count:
            raise self._refusal(is_counted_to_end=True)
        if block:
            yield bytes(block)
        self.summary = self._checker.summary()

    def _checked(self, line: int, row: dict[str, Any] | RowError) -> bytes:
        try:
            if isinstance(row, RowError):
                raise row
            encoded = self._checker.canonical_line(line, row)
        except RowError as error:
            self._note(error.at(line))
            if self._bad_line_count >= self._limits.max_bad_lines:
                raise self._refusal(is_counted_to_end=False) from None
            return b""
        if self._checker.pair_count > self._limits.max_rows:
            raise FileError(
                "too_many_rows",
                f"the file has more than {self._limits.max_rows} rows",
                "split it into several datasets",
            )
        return encoded

    def _note(self, problem: RowProblem) -> None:
        self._bad_line_count += 1
        if len(self._problems) < MAX_REPORTED:
            self._problems.append(problem)

    def _refusal(self, *, is_counted_to_end: bool) -> InvalidDatasetError:
        return InvalidDatasetError(
            self._problems,
            bad_line_count=self._bad_line_count,
            is_counted_to_end=is_counted_to_end,
        )
