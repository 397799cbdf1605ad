"""Containers of rows: which one a file is, told by its first bytes, and how its rows are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

from app.datasets.byte_streams import at_most, bunzip2, gunzip, split_lines, unxz
from app.datasets.csv_rows import csv_rows
from app.datasets.json_documents import WRAPPED, json_rows
from app.datasets.json_rows import jsonl_rows
from app.datasets.row_errors import FileError, Row

TextFormat = Literal["jsonl", "json", "csv", "tsv"]
FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: Enough to see a tar header and the beginning of a JSON document.
_HEAD_BYTES = 512
_UNPACK = {b"\x1f\x8b": gunzip, b"\xfd7zXZ\0": unxz, b"BZh": bunzip2}
_COLUMNAR: dict[bytes, FileFormat] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # the stream format, which the datasets library writes
}
_OTHERS = {
    b"FEA1": "Feather of version 1",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    ZSTD_MAGIC: "Zstandard",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf'\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"SQLite format 3\0": "an SQLite database",
    b"%PDF": "PDF",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}
_HINTS = {
    "UTF-16 text": "save the file as UTF-8",
    "a zip archive": "unpack the archive and upload the file that is in it",
    "a tar archive": "unpack the archive and upload the file that is in it",
    "a web page": "upload the file itself, not the page that shows it",
    "Feather of version 1": "write it again with pyarrow.feather.write_feather",
}


def peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a file, and all of its chunks."""
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    return head, chain([head], source)


def columnar_format(head: bytes) -> FileFormat | None:
    """The columnar format that a file begins as, which its first bytes tell; else None."""
    return next((name for magic, name in _COLUMNAR.items() if head.startswith(magic)), None)


def text_rows(chunks: Iterable[bytes], text_format: TextFormat, max_bytes: int) -> Iterator[Row]:
    """Numbered rows of a text file, unpacked if its first bytes say gzip, xz or bzip2.

    ``max_bytes`` bounds the unpacked file. JSON lines and JSON documents are told apart by their
    first bytes, whichever of the two was announced.

    Raises:
        FileError: another kind of file, a broken or exploding archive, or too many bytes.
    """
    head, chunks = peek(chunks)
    for magic, unpack in _UNPACK.items():
        if head.startswith(magic):
            head, chunks = peek(unpack(chunks))
            break
    _refuse_others(head)
    plain = at_most(chunks, max_bytes)
    if text_format in ("csv", "tsv"):
        yield from csv_rows(split_lines(plain), "\t" if text_format == "tsv" else ",")
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"[") or WRAPPED.match(text):
        yield from json_rows(plain)
        return
    if re.fullmatch(rb"\{\s*", text.partition(b"\n")[0]) and text.partition(b"\n")[2]:
        raise FileError(
            "json_document",
            "the file is JSON objects spread over several lines each",
            "write one object per line (jq -c . does), or one JSON array of all objects",
            line=1,
        )
    yield from jsonl_rows(split_lines(plain))


def _refuse_others(head: bytes) -> None:
    """Refuse a file that is no text, by its name."""
    name = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if found := columnar_format(head):
        name = f"{'Parquet' if found == 'parquet' else 'Arrow'} inside another file"
    if head[257:262] == b"ustar":
        name = "a tar archive"
    if name is not None:
        raise FileError(
            "wrong_format",
            f"the file looks like {name}",
            _HINTS.get(name, "send UTF-8 text, plain or compressed once, or Parquet or Arrow"),
        )
