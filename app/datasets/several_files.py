"""Read several files as one dataset: parts of an upload, or files of a hub repository."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from app.core.settings import Settings
from app.datasets.columnar import columnar_rows, unpacked_zstd
from app.datasets.containers import (
    FileFormat,
    TextFormat,
    columnar_format,
    is_zstd,
    peek,
    text_rows,
)
from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, InvalidDatasetError, Row, RowError, RowProblem
from app.datasets.spooling import spooled

_UNTYPED = ("csv", "tsv")


@dataclass(frozen=True)
class SourceFile:
    """One of the files; ``size`` is in bytes."""

    #: Name of the file in messages, such as ``part 3``.
    label: str
    file_format: FileFormat
    sha256: str
    size: int
    read: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class FileLimits:
    """Limits on each file."""

    max_bytes: int
    """After decompression."""
    max_rows: int


def files_digest(files: Sequence[SourceFile]) -> str:
    """Return the sha256 of a single file, or that of the files' hex digests, one per line."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


class FileRows:
    """Iterable over the rows of all files.

    Line numbers continue from file to file, as if one file held all rows.
    """

    def __init__(
        self,
        files: Sequence[SourceFile],
        limits: FileLimits,
        options: ReadOptions,
        settings: Settings,
    ) -> None:
        self._files = files
        self._limits = limits
        self._options = options
        self._settings = settings
        self._starts: list[int] = []

    @property
    def is_untyped(self) -> bool:
        """Whether all values are text, as in CSV and TSV."""
        return self._files[0].file_format in _UNTYPED

    def __iter__(self) -> Iterator[Row]:
        last = 0
        for file in self._files:
            start = last
            self._starts.append(start)
            try:
                self._check_format(file)
                for line, row in self._rows(file):
                    last = start + line
                    if isinstance(row, RowError) and row.line is not None:
                        row.line += start
                    yield last, row
            except FileError as error:
                local = error.line or max(last - start, 1)
                error.line = start + local
                raise

    def located(self, error: InvalidDatasetError) -> InvalidDatasetError:
        """Return the error with the file of each line, and the line in it, in the messages."""
        return InvalidDatasetError(
            [self._located(row) for row in error.rows],
            bad_line_count=error.bad_line_count,
            is_counted_to_end=error.is_counted_to_end,
        )

    def _located(self, problem: RowProblem) -> RowProblem:
        index = max(bisect_right(self._starts, problem.line - 1) - 1, 0)
        label, local = self._files[index].label, problem.line - self._starts[index]
        return problem.model_copy(
            update={"message": f"{problem.message} (line {local} of {label})"}
        )

    def _check_format(self, file: SourceFile) -> None:
        first = self._files[0]
        if (file.file_format in _UNTYPED) != self.is_untyped:
            raise FileError(
                "wrong_format",
                f"{file.label} is {file.file_format}, but {first.label} is {first.file_format}",
                "the values of CSV and TSV have no types: upload them as separate datasets",
            )

    def _rows(self, file: SourceFile) -> Iterator[Row]:
        limits = self._limits
        head, chunks = peek(file.read())
        if columnar_format(head) or file.file_format in ("parquet", "arrow"):
            with spooled(chunks, self._settings) as spool:
                rows = columnar_rows(spool, limits.max_rows, limits.max_bytes, self._options)
                with closing(rows):  # ends the child if the caller stops early
                    yield from rows
        elif is_zstd(head):
            with spooled(chunks, self._settings) as spool, closing(unpacked_zstd(spool)) as plain:
                yield from text_rows(plain, _text(file.file_format), limits.max_bytes)
        else:
            yield from text_rows(chunks, _text(file.file_format), limits.max_bytes)


def _text(file_format: FileFormat) -> TextFormat:
    assert file_format != "parquet"
    assert file_format != "arrow"
    return file_format
