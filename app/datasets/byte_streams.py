"""Bytes of an upload as they come: unpacked within bounds, cut into lines."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from app.datasets.file_types import GZIP, HEAD_BYTES, FileType, binary_type
from app.datasets.row_errors import FileError

MAX_LINE_BYTES = 1 << 20
MAX_COMPRESSION_RATIO = 100
# Below this a high ratio harms nobody, and a short file of equal rows is no bomb.
FREE_UNPACKED_BYTES = 4 << 20
_INFLATE_BYTES = 256 << 10
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS


def plain_text(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a text file, unpacked if their first bytes say gzip.

    Raises:
        FileError: another kind of file, broken gzip, or a gzip bomb.
    """
    kind, whole = _identified(chunks)
    if kind is GZIP:
        kind, whole = _identified(gunzip(whole))
    if kind is not None:
        raise FileError("wrong_format", f"the file is {kind.description}", kind.advice)
    yield from whole


def _identified(chunks: Iterable[bytes]) -> tuple[FileType | None, Iterator[bytes]]:
    """The file's type if it is no text, and all of its chunks."""
    head, rest = b"", iter(chunks)
    for chunk in rest:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    return binary_type(head), chain([head], rest)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What a gzip file holds, in pieces of at most 256 KiB; several members are one file.

    Raises:
        FileError: broken or cut off, or unpacks to more than 100 times its size.
    """
    inflate = zlib.decompressobj(_WITH_GZIP_HEADER)
    packed = unpacked = 0
    is_inside = False
    for chunk in chunks:
        packed += len(chunk)
        data = chunk
        while data:
            if inflate.eof:
                data = data.lstrip(b"\0")  # padding that some tapes and tools leave
                if not data:
                    break
                inflate = zlib.decompressobj(_WITH_GZIP_HEADER)
            try:
                piece = inflate.decompress(data, _INFLATE_BYTES)
            except zlib.error as error:
                raise FileError(
                    "invalid_gzip", f"the gzip data is broken ({error})", "compress it again"
                ) from None
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            is_inside = not inflate.eof
            unpacked += len(piece)
            check_ratio(packed, unpacked)
            yield piece
    while is_inside and (piece := inflate.decompress(b"", _INFLATE_BYTES)):
        unpacked += len(piece)
        check_ratio(packed, unpacked)
        yield piece
    if is_inside and not inflate.eof:
        raise FileError("invalid_gzip", "the gzip data ends too early", "upload the whole file")


def check_ratio(packed: int, unpacked: int) -> None:
    """Refuse a file that unpacks to over 100 times its size and over 4 MiB.

    Raises:
        FileError: it does.
    """
    if unpacked > max(FREE_UNPACKED_BYTES, MAX_COMPRESSION_RATIO * packed):
        raise FileError(
            "compression_ratio",
            f"the file unpacks to more than {MAX_COMPRESSION_RATIO} times its size",
            "upload it uncompressed",
        )


def at_most(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The chunks, up to ``max_bytes`` in all.

    Raises:
        FileError: there are more.
    """
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise FileError(
                "too_large",
                f"the file holds more than {max_bytes} bytes",
                "split it into several datasets",
            )
        yield chunk


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ``\\n``. Of an overlong line only its beginning comes, and that is
    longer than ``MAX_LINE_BYTES``, so that who reads it can tell."""
    rest = bytearray()
    for chunk in chunks:
        lines = chunk.split(b"\n")
        if len(lines) > 1:
            yield bytes(rest) + lines[0]
            yield from lines[1:-1]
            rest.clear()
        if len(rest) <= MAX_LINE_BYTES:
            rest += lines[-1]
    if rest:
        yield bytes(rest)
