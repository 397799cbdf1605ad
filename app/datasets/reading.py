"""Convert an upload to canonical JSONL and check it while it streams::

    reader = DatasetReader()
    for block in reader.read(chunks, "jsonl"):   # or reader.read_columnar(file)
        store(block)                             # canonical JSONL, about 64 KiB at a time
    reader.summary                               # unless the loop raised InvalidDatasetError

The reader pulls: the endpoint's thread passes an iterator over the request's chunks, which may hash
or store each chunk. Memory holds one chunk, the first rows, and a few MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.datasets.canonical import DatasetSummary, DatasetWarning, RowWriter
from app.datasets.columnar import columnar_rows, unpacked_zstd
from app.datasets.containers import TextFormat, text_rows
from app.datasets.lint import Lint, prompt_columns
from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, Row, RowError
from app.datasets.shapes.assembling import RowAssembler
from app.datasets.shapes.detection import recognise
from app.datasets.shapes.encoded import check_rows, decoded, encoded_columns
from app.datasets.shapes.file_form import FileForm
from app.datasets.shapes.sample import Sample, take_sample
from app.datasets.shapes.shape import Shape
from app.datasets.spooling import SpooledFile
from app.datasets.tally import Tally, TallyLimits
from app.datasets.unused import UnusedFields, plain_name
from app.domain.warnings import WarningCode

_BLOCK_BYTES = 64 << 10
Conversion = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class ReadLimits:
    """Limits on one upload after decompression."""

    max_bytes: int = 4 << 30
    max_rows: int = 5_000_000
    max_bad_lines: int = 1_000
    """Reading stops after this number of bad lines."""
    max_skipped_share: float = 0.5
    """Largest share of skipped rows (0 to 1), without ties, if invalid rows may be skipped."""


class DatasetReader:
    """Reads one upload, once; ``summary`` is set after the last block.

    Exceptions of the chunk iterator (a disconnected client, a size limit) propagate.
    """

    summary: DatasetSummary

    def __init__(
        self, limits: ReadLimits | None = None, options: ReadOptions | None = None
    ) -> None:
        self._limits = limits or ReadLimits()
        self._options = options or ReadOptions()
        self._writer = RowWriter()
        self._tally = Tally(
            TallyLimits(
                self._options.on_invalid,
                self._limits.max_bad_lines,
                self._limits.max_skipped_share,
            )
        )
        self._line = 0

    def read(self, chunks: Iterable[bytes], text_format: TextFormat) -> Iterator[bytes]:
        """Yield the canonical JSONL of a text file, which may be compressed.

        After the first bad line nothing more is yielded; the rest is read to count bad lines. With
        ``on_invalid="skip"``, bad lines are counted and skipped.

        Raises:
            InvalidDatasetError: after the last line; discard all blocks yielded before.
        """
        rows = text_rows(chunks, text_format, self._limits.max_bytes)
        yield from self.read_rows(rows, is_untyped=text_format in ("csv", "tsv"))

    def read_columnar(self, file: SpooledFile) -> Iterator[bytes]:
        """Yield the canonical JSONL of a Parquet or Arrow file, which a child process parses.

        Raises:
            InvalidDatasetError: as in ``read``; ``line`` is the row's number, from 1.
        """
        limits = self._limits
        rows = columnar_rows(file, limits.max_rows, limits.max_bytes, self._options)
        with closing(rows):  # ends the child if the caller stops early
            yield from self.read_rows(rows, is_untyped=False)

    def read_zstd(self, file: SpooledFile, text_format: TextFormat) -> Iterator[bytes]:
        """Yield the canonical JSONL of a Zstandard file with text, which a child process unpacks.

        Raises:
            InvalidDatasetError: as in ``read``.
        """
        chunks = unpacked_zstd(file)
        with closing(chunks):
            yield from self.read(chunks, text_format)

    def read_rows(self, rows: Iterable[Row], *, is_untyped: bool) -> Iterator[bytes]:
        """Yield the canonical JSONL of numbered rows.

        ``is_untyped`` means that all values are text, as in CSV and TSV.

        Raises:
            InvalidDatasetError: as in ``read``.
        """
        ignored: set[str] = set()
        try:
            if self._options.ignore_columns:
                rows = self._kept_columns(rows, ignored)
            sample, source = take_sample(rows)
            if not sample.rows:
                self._refuse_all(source)
            self._line = 1 if is_untyped else sample.rows[0][0]  # the header is line 1
            check_rows(sample)
            if encoded := encoded_columns(sample):
                sample, source = _convert(sample, source, partial(decoded, columns=encoded))
                if not sample.rows:
                    self._refuse_all(source)
            recognised = recognise(sample, self._options)
            shape = recognised.shape
            for convert in recognised.conversions:
                sample, source = _convert(sample, source, convert)
            if not sample.rows:
                self._refuse_all(source)
            parts = shape.parts_in(sample)
            form = FileForm.of(parts, sample)
            used = form.columns.used(parts) | shape.needed_columns
            unread = () if form.prompt_kind else prompt_columns(sample, used, ignored)
            unused = self._unused(used, shape, form, unread)
            lint = Lint(sample, unread)
            assemble = RowAssembler(parts, form, unused, is_untyped=is_untyped)
            yield from self._lines(source, assemble, lint)
        except FileError as error:
            self._tally.refuse(error.at(max(self._line, 1)))
            raise self._tally.refusal(is_counted_to_end=False) from None
        for name in ignored:
            unused.ask_to_ignore(name)
        self.summary = self._summary(shape.name, unused, lint)

    def _lines(self, rows: Iterable[Row], assemble: RowAssembler, lint: Lint) -> Iterator[bytes]:
        writer, tally, limit = self._writer, self._tally, self._limits.max_rows
        encode, look = writer.canonical_line, lint.look
        # Appending each line at once is five times as fast as joining a list of them: the
        # allocator then uses the same memory for each line.
        block = bytearray()
        for line, row in rows:
            self._line = line
            try:
                if isinstance(row, RowError):
                    raise row
                made = assemble(line, row)
                encoded = encode(made)
            except RowError as error:
                tally.add(line, error)
                continue
            look(line, row, made)
            if writer.row_count > limit:
                raise FileError(
                    "too_many_rows",
                    f"the file has more than {limit} rows",
                    "split it into several datasets",
                )
            block += encoded
            if len(block) >= _BLOCK_BYTES:
                if not tally.bad_line_count:
                    yield bytes(block)
                block.clear()
        tally.check_end(self._line, writer.row_count)
        if block:
            yield bytes(block)

    def _kept_columns(self, rows: Iterable[Row], ignored: set[str]) -> Iterator[Row]:
        """Drop the columns that the caller asked to ignore, and add those found to ``ignored``."""
        asked = self._options.ignore_columns
        layout: tuple[str, ...] = ()
        there: set[str] = set()
        for line, row in rows:
            if isinstance(row, dict):
                if tuple(row) != layout:
                    layout = tuple(row)
                    # Errors name a column as it is called after the recognition of its shape.
                    there = {name for name in row if name in asked or plain_name(name) in asked}
                    ignored |= there
                if there:
                    row = {name: value for name, value in row.items() if name not in there}
            yield line, row

    def _refuse_all(self, rows: Iterable[Row]) -> None:
        for line, row in rows:
            self._line = line
            if isinstance(row, RowError):
                self._tally.add(line, row)
        self._tally.check_end(self._line, 0)

    def _unused(
        self, used: frozenset[str], shape: Shape, form: FileForm, unread: Sequence[str]
    ) -> UnusedFields:
        return UnusedFields(
            used=used,
            harmless=shape.harmless,
            descriptive=shape.descriptive,
            ignored=self._options.ignore_columns,
            meaningful=frozenset(unread) if form.lacks_prompt else frozenset(),
            needs_prompt=form.prompt_kind is None,
        )

    def _summary(self, shape: str, unused: UnusedFields, lint: Lint) -> DatasetSummary:
        writer = self._writer
        return DatasetSummary.model_validate(
            {
                "row_count": writer.row_count,
                "pair_count": writer.pair_count,
                "rows_by_pairs": dict(sorted(writer.rows_by_pairs.items())),
                "row_form": writer.row_form,
                "shape": shape,
                "format": "conversational" if writer.is_conversational else "text",
                "prompt": "explicit" if writer.prompt_count == writer.row_count else "implicit",
                "has_margin": writer.has_margin,
                "has_tools": writer.has_tools,
                "is_rendered": lint.is_rendered,
                "slices": dict(sorted(writer.slices.items())),
                "ignored_columns": sorted(unused.columns),
                "chat_template_kwargs": self._options.chat_template_kwargs,
                "skipped": self._tally.skipped,
                "skippable_share": self._limits.max_skipped_share
                if self._options.on_invalid == "skip"
                else 0.0,
                "warnings": [*self._warnings(unused), *lint.warnings()],
            }
        )

    def _warnings(self, unused: UnusedFields) -> Iterator[DatasetWarning]:
        if unused.warned:
            names = ", ".join(sorted(unused.warned)[:20])
            yield DatasetWarning(
                code=WarningCode.COLUMNS_IGNORED,
                message=f"text in these columns was ignored, as no part of a pair uses it: {names}",
            )
        if skipped := self._tally.skipped:
            total = sum(each.count for each in skipped)
            reasons = ", ".join(f"{each.count} {each.code}" for each in skipped)
            yield DatasetWarning(
                code=WarningCode.ROWS_SKIPPED,
                message=f"{total} of {total + self._writer.row_count} rows were skipped: {reasons}",
                lines=sorted(line for each in skipped for line in each.lines)[:10],
            )


def _convert(
    sample: Sample, source: Iterator[Row], convert: Conversion
) -> tuple[Sample, Iterator[Row]]:
    """Return the sample and all rows converted; the sample keeps the rows without an error."""
    rows = _converted(sample.rows, convert)
    kept = tuple((line, row) for line, row in rows if isinstance(row, dict))
    return Sample(kept), _converted(source, convert)


def _converted(rows: Iterable[Row], convert: Conversion) -> Iterator[Row]:
    for line, row in rows:
        try:
            yield line, convert(row) if isinstance(row, dict) else row
        except RowError as error:
            yield line, error
