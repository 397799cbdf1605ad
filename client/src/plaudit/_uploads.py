"""What can be uploaded as a dataset, as chunks of bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from plaudit.models import DatasetRead

CHUNK_BYTES = 1 << 20
MAX_NAME = 128
JSONL = "application/x-ndjson"
CONTENT_TYPES = {
    "arrow": "application/vnd.apache.arrow.file",
    "csv": "text/csv",
    "feather": "application/vnd.apache.arrow.file",
    "json": "application/json",
    "jsonl": JSONL,
    "ndjson": JSONL,
    "parquet": "application/vnd.apache.parquet",
    "tsv": "text/tab-separated-values",
}
PACKED = (".gz", ".xz", ".bz2", ".zst")

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | Iterable[str | os.PathLike[str]]
OnBytes = Callable[[int], object]


@dataclass(frozen=True)
class Upload:
    """Bytes to upload and what they are."""

    chunks: Callable[[], Iterator[bytes]]
    content_type: str
    is_repeatable: bool
    """Whether the bytes can be made a second time."""
    default_name: str | None = None
    """The file's own name."""
    size: int | None = None
    """Bytes, where that is known: the service then refuses too large a file at once."""


class UploadedDataset(DatasetRead):
    """A dataset that was just uploaded."""

    _is_new: bool = PrivateAttr(default=True)

    @property
    def is_new(self) -> bool:
        """False: the service had these bytes already, maybe under another name."""
        return self._is_new

    def marked(self, *, is_new: bool) -> Self:
        """This dataset, with what the status of the answer said."""
        self._is_new = is_new
        return self


def read_source(source: Source, on_bytes: OnBytes | None = None) -> Upload:
    """The bytes of a path, of rows, or of a ``datasets.Dataset``.

    ``on_bytes`` is called with the size of each chunk before it is sent.

    Raises:
        FileNotFoundError, IsADirectoryError
        TypeError: it is none of the three.
    """
    upload = _read(source)
    return replace(upload, chunks=told(upload.chunks, on_bytes))


def told(
    chunks: Callable[[], Iterator[bytes]], on_bytes: OnBytes | None
) -> Callable[[], Iterator[bytes]]:
    """The chunks, each of whose sizes is told before it is sent."""
    if on_bytes is None:
        return chunks

    def tell() -> Iterator[bytes]:
        for chunk in chunks():
            on_bytes(len(chunk))
            yield chunk

    return tell


def _read(source: Source) -> Upload:
    if isinstance(source, str | os.PathLike):
        return _of_file(Path(source))
    return _of_rows(source)


def _of_file(path: Path) -> Upload:
    with path.open("rb") as opened:  # what is wrong with it is said before anything is sent
        size = os.fstat(opened.fileno()).st_size

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return Upload(
        chunks,
        content_type(path) or JSONL,
        is_repeatable=True,
        default_name=path.name[:MAX_NAME],
        size=size,
    )


def content_type(path: Path) -> str | None:
    """What a file is, by its name; None where that does not tell."""
    plain = path.stem if path.suffix.lower() in PACKED else path.name
    return CONTENT_TYPES.get(plain.lower().rpartition(".")[2])


def _of_rows(rows: Any) -> Upload:
    if isinstance(rows, Mapping):
        what = type(rows).__name__
        raise TypeError(
            f"A {what} is not a list of rows; upload one of its splits, or [row] for a single row."
        )
    if isinstance(rows, bytes | bytearray) or not isinstance(rows, Iterable):
        raise TypeError(
            "A dataset is a path, rows (mappings), or a datasets.Dataset, "
            f"not {type(rows).__name__}."
        )
    # An iterator gives its rows once; whatever makes a new one every time can be sent again.
    is_repeatable = not isinstance(rows, Iterator)
    return Upload(lambda: _lines(rows), JSONL, is_repeatable)


def _lines(rows: Iterable[Any]) -> Iterator[bytes]:
    """JSONL in chunks of about a mebibyte."""
    buffer = bytearray()
    for number, row in enumerate(rows, 1):
        buffer += _line(number, row)
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _line(number: int, row: Any) -> bytes:
    if not isinstance(row, Mapping):
        raise TypeError(
            f"Row {number} is a {type(row).__name__}, not a mapping with the columns chosen and "
            "rejected. Of a pandas frame, upload frame.to_dict('records')."
        )
    try:
        # Columns that are there for other rows only are None in a datasets.Dataset.
        given = {name: value for name, value in row.items() if value is not None}
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Row {number} has no JSON form: {error}.") from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which the service refuses with its line
        return json.dumps(given, allow_nan=False).encode() + b"\n"
