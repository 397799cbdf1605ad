"""Turns the sources of a dataset into chunks of bytes to upload."""

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
    """Bytes to upload and their content type."""

    chunks: Callable[[], Iterator[bytes]]
    content_type: str
    is_repeatable: bool
    """Whether the bytes can be produced again for a retry."""
    default_name: str | None = None
    """The name of the file; None for rows."""
    size: int | None = None
    """Size in bytes, if known: the service then rejects a file that is too large immediately."""


class UploadedDataset(DatasetRead):
    """A dataset that was just uploaded."""

    _is_new: bool = PrivateAttr(default=True)

    @property
    def is_new(self) -> bool:
        """False if the service already had these bytes, possibly under another name."""
        return self._is_new

    def with_status(self, *, is_new: bool) -> Self:
        """Record whether the upload created the dataset, and return the dataset."""
        self._is_new = is_new
        return self


def read_source(source: Source, on_bytes: OnBytes | None = None) -> Upload:
    """Return an upload of a path, of rows, or of a ``datasets.Dataset``.

    ``on_bytes`` is called with the size of each chunk before it is sent.

    Raises:
        FileNotFoundError, IsADirectoryError: the path is not a file.
        TypeError: the source is not a path, rows or a ``datasets.Dataset``.
    """
    upload = _read(source)
    return replace(upload, chunks=report_bytes(upload.chunks, on_bytes))


def report_bytes(
    chunks: Callable[[], Iterator[bytes]], on_bytes: OnBytes | None
) -> Callable[[], Iterator[bytes]]:
    """Return the same chunks; ``on_bytes`` is called with the size of each before it is sent."""
    if on_bytes is None:
        return chunks

    def reported() -> Iterator[bytes]:
        for chunk in chunks():
            on_bytes(len(chunk))
            yield chunk

    return reported


def _read(source: Source) -> Upload:
    if isinstance(source, str | os.PathLike):
        return _of_file(Path(source))
    return _of_rows(source)


def _of_file(path: Path) -> Upload:
    is_regular = path.is_file()
    if is_regular or not path.exists() or path.is_dir():
        with path.open("rb") as opened:  # raises before anything is sent if it cannot be read
            size = os.fstat(opened.fileno()).st_size

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def chunks_of_size() -> Iterator[bytes]:
        sent = 0
        for chunk in chunks():
            sent += len(chunk)
            if sent <= size:
                yield chunk
        if sent != size:
            raise ValueError(f"{path} changed while it was uploaded; repeat the upload.")

    return Upload(
        chunks_of_size if is_regular else chunks,
        content_type(path) or JSONL,
        is_repeatable=is_regular,  # a pipe yields its bytes once, and their number is not known
        default_name=default_name(path),
        size=size if is_regular else None,
    )


def default_name(path: Path) -> str | None:
    """Return the display name for the data of a file or directory; None if it has no name."""
    name = path.name or path.resolve().name  # "." has no name
    return name.encode("utf-8", "replace").decode()[:MAX_NAME] or None


def content_type(path: Path) -> str | None:
    """Return the content type by the extension of a file; None if the extension is unknown."""
    plain = path.stem if path.suffix.lower() in PACKED else path.name
    return CONTENT_TYPES.get(plain.lower().rpartition(".")[2])


def _of_rows(rows: Any) -> Upload:
    if isinstance(rows, Mapping):
        what = type(rows).__name__
        raise TypeError(
            f"A {what} is not a list of rows. Upload one of its splits, or [row] for a single row."
        )
    if isinstance(rows, bytes | bytearray) or not isinstance(rows, Iterable):
        raise TypeError(
            "A dataset must be a path, rows (mappings), or a datasets.Dataset, "
            f"not {type(rows).__name__}."
        )
    # An iterator yields its rows once; any other iterable can be read again for a retry.
    is_repeatable = not isinstance(rows, Iterator)
    return Upload(lambda: _lines(rows), JSONL, is_repeatable)


def _lines(rows: Iterable[Any]) -> Iterator[bytes]:
    """Yield JSON lines in chunks of about one mebibyte."""
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
            "rejected. For a pandas DataFrame, upload frame.to_dict('records')."
        )
    try:
        # A datasets.Dataset has None where only other rows have a column.
        given = {name: value for name, value in row.items() if value is not None}
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Row {number} cannot be encoded as JSON: {error}.") from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: the service refuses it and names the line
        return json.dumps(given, allow_nan=False).encode() + b"\n"
