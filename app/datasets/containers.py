"""File formats: detect the format of an upload from its first bytes, and read its rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Literal

from app.datasets.byte_streams import at_most, bunzip2, gunzip, split_lines, unxz
from app.datasets.columnar import unpacked_zstd
from app.datasets.csv_rows import csv_rows
from app.datasets.file_types import (
    ARROW,
    ARROW_STREAM,
    BZIP2,
    GZIP,
    HEAD_BYTES,
    PARQUET,
    XZ,
    ZSTD,
    FileType,
    binary_type,
)
from app.datasets.json_documents import WRAPPED, json_rows
from app.datasets.json_rows import jsonl_rows
from app.datasets.row_errors import FileError, Row
from app.datasets.spooling import SpooledFile

TextFormat = Literal["jsonl", "json", "csv", "tsv"]
FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
_UNPACK = {GZIP: gunzip, XZ: unxz, BZIP2: bunzip2}
#: More than a Zstandard block takes, so that the first block of a file is whole.
_ZSTD_HEAD_BYTES = 256 << 10
_COLUMNAR: dict[FileType, FileFormat] = {
    PARQUET: "parquet",
    ARROW: "arrow",
    ARROW_STREAM: "arrow",
}


def peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes of a file, and an iterator over all of its chunks."""
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    return head, chain([head], source)


def columnar_format(head: bytes) -> FileFormat | None:
    """Return the columnar format that the first bytes identify, or None."""
    kind = binary_type(head)
    return None if kind is None else _COLUMNAR.get(kind)


def is_zstd(head: bytes) -> bool:
    """Return whether a file is compressed with Zstandard, which only a child process reads."""
    return binary_type(head) is ZSTD


def refuse_other_kinds(chunks: Iterable[bytes]) -> None:
    """Reject a file of an unsupported type, also inside a compressed file.

    Text passes.

    Raises:
        FileError: names the kind, or says that the compressed data are broken.
    """
    head, chunks = peek(chunks)
    kind = binary_type(head)
    if kind is not None and kind in _UNPACK:
        kind = binary_type(peek(_UNPACK[kind](chunks))[0])
    elif kind is ZSTD:
        kind = binary_type(_zstd_head(chunks))
    if kind is not None:
        raise FileError("wrong_format", f"the file is {kind.description}", kind.advice)


def _zstd_head(chunks: Iterable[bytes]) -> bytes:
    """Return the first bytes of what Zstandard compressed, which only a child process unpacks."""
    with tempfile.NamedTemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
            if file.tell() >= _ZSTD_HEAD_BYTES:
                break
        file.flush()
        with closing(unpacked_zstd(SpooledFile(Path(file.name)))) as unpacked:
            return peek(unpacked)[0]


def text_rows(chunks: Iterable[bytes], text_format: TextFormat, max_bytes: int) -> Iterator[Row]:
    """Yield the numbered rows of a text file, which may be compressed with gzip, xz or bzip2.

    ``max_bytes`` limits the size of the unpacked file. The first bytes decide between JSON lines
    and a JSON document, whichever of the two was declared.

    Raises:
        FileError: the file has another format, is broken, too large, or unpacks to more than 100
            times its size.
    """
    head, chunks = peek(chunks)
    kind = binary_type(head)
    if kind is not None and kind in _UNPACK:
        head, chunks = peek(_UNPACK[kind](chunks))
        kind = binary_type(head)
    if kind is not None:
        raise FileError("wrong_format", f"the file is {kind.description}", kind.advice)
    plain = at_most(chunks, max_bytes)
    if text_format in ("csv", "tsv"):
        yield from csv_rows(split_lines(plain), "\t" if text_format == "tsv" else ",")
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"[") or WRAPPED.match(text):
        yield from json_rows(plain)
        return
    yield from jsonl_rows(split_lines(plain))
