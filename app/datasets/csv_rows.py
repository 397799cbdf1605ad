"""CSV (RFC 4180, with a header) → rows.

A cell that holds a JSON list of messages is a conversation; an empty cell of an optional column is
no value.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from app.datasets.byte_streams import MAX_LINE_BYTES
from app.datasets.conversations import ENCODED_MESSAGES
from app.datasets.file_types import CSV, HEAD_BYTES, check_first_line
from app.datasets.json_rows import json_value, utf8
from app.datasets.row_errors import FileError, Row, RowError, shown

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_BOM = b"\xef\xbb\xbf"


def csv_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Numbered rows; the number is that of a record's first line, the header being line 1.

    Raises:
        FileError: an unusable header, or a record of more than 1 MiB.
    """
    # One limit for the whole process, always set to the same: the default would cut at 128 KiB.
    csv.field_size_limit(MAX_LINE_BYTES)
    source = _RecordLines(lines)
    records = csv.reader(source, strict=True)
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
            check_first_line(source.header, CSV)
            raise _unusable_header(row, source.first_line)
        yield source.first_line, row


class _RecordLines:
    """Lines as ``csv`` wants them, numbered; bounds a record, which may span many."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._line = 0
        self._size = 0
        self.first_line = 1
        self.header = b""

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
                "shorten it; if it is short, close the quote that is open",
                line=self.first_line,
            )
        return utf8(line) + "\n"


def _header(cells: list[str], line: bytes) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not {"chosen", "rejected"} <= set(names):
        check_first_line(line, CSV)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileError(
            "duplicate_column",
            f"the column {shown(twice[0])} is there twice",
            "keep one of them",
            column=shown(twice[0])[1:-1],
            line=1,
        )
    for name in ("chosen", "rejected"):
        if name not in names:
            found = ", ".join(shown(column) for column in names[:10])
            raise FileError(
                "missing_column",
                f"the header has no column {name} (it has: {found})",
                "name the columns prompt, chosen, rejected, separated by commas",
                column=name,
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
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in ("prompt", "chosen", "rejected"):
        row[name] = _conversation(name, row[name]) if name in row else None
    for name in ("prompt", "margin", "slice"):
        row[name] = row.get(name) or None
    if row["margin"] and _NUMBER.fullmatch(row["margin"]):
        row["margin"] = float(row["margin"])
    return row


def _conversation(name: str, cell: str) -> Any:
    if not ENCODED_MESSAGES.match(cell):
        return cell
    try:
        return json_value(cell)
    except RowError as error:
        column = f"{name}: {error.column}" if error.column else name
        raise RowError(
            error.code, error.message, error.hint, column=column, offset=error.offset
        ) from None
