"""Read rows of CSV (RFC 4180, with a header) and TSV.

A cell that holds a JSON list of messages, or one message, is a conversation. An empty cell is
null. Any other cell is text, also if it looks like a number.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from app.datasets.byte_streams import MAX_LINE_BYTES
from app.datasets.file_types import CSV, HEAD_BYTES, TSV, check_first_line
from app.datasets.json_rows import json_value, utf8
from app.datasets.row_errors import FileError, Row, RowError, shown
from app.datasets.texts import ENCODED_MESSAGES, is_encoded_message

_BOM = b"\xef\xbb\xbf"


def csv_rows(lines: Iterable[bytes], delimiter: str = ",") -> Iterator[Row]:
    """Yield the rows with the number of their first line; the header is line 1.

    A file whose header has tabs and no commas is read as TSV.

    Raises:
        FileError: the header is invalid, or a record is larger than 1 MiB.
    """
    # The limit is global to the process, and is always set to the same value. The default of
    # 128 KiB is too small.
    csv.field_size_limit(MAX_LINE_BYTES)
    source = _RecordLines(lines)
    records = csv.reader(source, strict=True, delimiter=source.delimiter(delimiter))
    header: list[str] | None = None
    while True:
        source.start_record()
        try:
            cells = next(records)
            if not cells:
                continue
            if header is None:
                header = _header(cells, source.header)
                continue
            row: dict[str, Any] | RowError = _row(header, cells)
        except StopIteration:
            return
        except csv.Error as error:
            row = RowError(
                "invalid_csv",
                f"not CSV as in RFC 4180: {error}",
                'put a cell with commas, quotes or line ends in quotes, and write " as ""',
            )
        except RowError as error:
            row = error
        if header is None:
            check_first_line(source.header, CSV, TSV)
            raise _unusable_header(row, source.first_line)
        yield source.first_line, row


class _RecordLines:
    """Lines for ``csv.reader``, with line numbers and a limit on the bytes of a record."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._line = 0
        self._size = 0
        self.first_line = 1
        self.header = b""

    def delimiter(self, announced: str) -> str:
        """Return a tab if the header has tabs and no commas, else the announced delimiter."""
        if (first := next(self._lines, None)) is None:
            return announced
        self._lines = chain([first], self._lines)
        return "\t" if b"\t" in first and b"," not in first else announced

    def start_record(self) -> None:
        self.first_line = self._line + 1
        self._size = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(_BOM)
        if not self.header.strip():
            self.header = line[:HEAD_BYTES]
        self._size += len(line) + 1
        if self._size > MAX_LINE_BYTES:
            raise FileError(
                "line_too_long",
                f"the record is longer than {MAX_LINE_BYTES} bytes",
                "shorten it, or close an open quote if it is short",
                line=self.first_line,
            )
        return utf8(line) + "\n"


def _header(cells: list[str], line: bytes) -> list[str]:
    check_first_line(line, CSV, TSV)
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileError(
            "duplicate_column",
            f"the column {shown(twice[0])} appears twice",
            "keep one of them",
            column=shown(twice[0])[1:-1],
            line=1,
        )
    return names


def _unusable_header(row: dict[str, Any] | RowError, line: int) -> FileError:
    assert isinstance(row, RowError)
    return FileError(
        row.code, row.message, row.hint, column=row.column, offset=row.offset, line=line
    )


def _row(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise RowError(
            "wrong_cell_count",
            f"found {len(cells)} cells, the header has {len(header)}",
            "put a cell with commas or line ends in quotes",
        )
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True)}


def _value(name: str, cell: str) -> Any:
    if not cell:
        return None
    if cell[0] not in "[{ \t\r\n":
        return cell
    if not ENCODED_MESSAGES.match(cell) and not is_encoded_message(cell):
        return cell
    try:
        return json_value(cell)
    except RowError as error:
        column = f"{name}: {error.column}" if error.column else name
        raise RowError(
            error.code, error.message, error.hint, column=column, offset=error.offset
        ) from None
