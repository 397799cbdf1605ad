"""Tell the format of an upload from its request and its first bytes."""

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
#: Content types that do not name a format: ``format`` or the file's name must name it.
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
#: The default content type of curl --data-binary.
_UNDECLARED = {"application/x-www-form-urlencoded"}
PART_TYPES = [*_FORMATS, "application/gzip", "application/octet-stream"]
UPLOAD_TYPES = [*PART_TYPES, "multipart/form-data"]


@dataclass(frozen=True)
class Announced:
    """What a request says about the format of its file."""

    media_type: str
    file_format: FileFormat | None
    """None if the request does not name one."""
    is_known: bool
    """Whether uploads of this media type are accepted."""

    def settle(self, head: bytes, chunks: Iterable[bytes]) -> FileFormat:
        """Return the format of a file that begins with ``head``.

        ``chunks`` are read only if the file is refused.

        Raises:
            InvalidDatasetError: the file is of a type that is not accepted, such as an archive.
            UnsupportedMediaError: neither the request nor the first bytes name the format.
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
            f"Content type {shown!r} does not name the format of the file.",
            hint="Send application/x-ndjson, application/json, text/csv, text/tab-separated-values "
            "or application/vnd.apache.parquet, or add ?format=jsonl, json, csv, tsv, parquet or "
            "arrow. For a compressed file, name the format inside, such as application/x-ndjson "
            "for JSONL.",
        )


def announced(content_type: str, filename: str, asked: FileFormat | None) -> Announced:
    """Return the format that a request names: the requested one, else by type, else by name."""
    media_type = content_type.partition(";")[0].strip().lower()
    found = asked or _FORMATS.get(media_type) or format_of_name(filename)
    is_known = media_type in _FORMATS or media_type in _NEUTRAL | _UNDECLARED
    return Announced(media_type, found, is_known)


def format_of_name(filename: str) -> FileFormat | None:
    """Return the format that a file name's extension names, or None; ignore .gz and the like."""
    name = _PACKED_SUFFIXES.sub("", filename.lower())
    return next((known for suffix, known in _SUFFIXES.items() if name.endswith(suffix)), None)
