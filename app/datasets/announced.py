"""What a request says about its file, and what the file's first bytes say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.core.errors import UnsupportedMediaError
from app.datasets.containers import FileFormat, columnar_format, refuse_other_kinds
from app.datasets.row_errors import FileError, InvalidDatasetError

_FORMATS: dict[str, FileFormat] = {
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/json": "json",
    "text/csv": "csv",
    "application/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.arrow.stream": "arrow",
}
_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_PACKED_SUFFIXES = re.compile(r"\.(gz|xz|bz2|zst)$")
#: Say nothing about what is inside; ``format`` or the file's name does.
_NEUTRAL = {
    "",
    "application/gzip",
    "application/octet-stream",
    "application/x-bzip2",
    "application/x-gzip",
    "application/x-xz",
    "application/zstd",
    "text/plain",
}
#: curl --data-binary says this when nobody told it what it sends.
_UNTOLD = {"application/x-www-form-urlencoded"}
PART_TYPES = [*_FORMATS, "application/gzip", "application/octet-stream"]
UPLOAD_TYPES = [*PART_TYPES, "multipart/form-data"]


@dataclass(frozen=True)
class Announced:
    """What a request says about its file."""

    media_type: str
    file_format: FileFormat | None
    """None where nothing tells."""
    is_known: bool
    """Whether uploads of this media type are taken."""

    def settle(self, head: bytes, chunks: Iterable[bytes]) -> FileFormat:
        """What the file is, which begins with ``head``. ``chunks`` are read only to refuse it.

        Raises:
            InvalidDatasetError: the file is of a kind that is not taken, such as an archive.
            UnsupportedMediaError: neither the request nor the first bytes tell.
        """
        if self.is_known and (found := columnar_format(head) or self.file_format):
            return found
        try:
            refuse_other_kinds(chunks)
        except FileError as error:
            raise InvalidDatasetError(
                [error.at(1)], bad_line_count=1, is_counted_to_end=False
            ) from None
        shown = re.sub(r"[^\x20-\x7e]", "?", self.media_type)[:80]
        raise UnsupportedMediaError(
            f"Content type {shown!r} does not say what the file is.",
            hint="Send application/x-ndjson, application/json, text/csv, text/tab-separated-values "
            "or application/vnd.apache.parquet, or add ?format=jsonl, json, csv, tsv, parquet or "
            "arrow. Compressed text goes as what is inside: JSONL as application/x-ndjson.",
        )


def announced(content_type: str, filename: str, asked: FileFormat | None) -> Announced:
    """What a request says about its file: the format asked for, else its type, else its name."""
    media_type = content_type.partition(";")[0].strip().lower()
    found = asked or _FORMATS.get(media_type) or format_of_name(filename)
    is_known = media_type in _FORMATS or media_type in _NEUTRAL | _UNTOLD
    return Announced(media_type, found, is_known)


def format_of_name(filename: str) -> FileFormat | None:
    """What a file is by its name, compressed or not."""
    name = _PACKED_SUFFIXES.sub("", filename.lower())
    return next((known for suffix, known in _SUFFIXES.items() if name.endswith(suffix)), None)
