"""Bytes of an upload as they come: unpacked within bounds, cut into lines."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from app.datasets.row_errors import FileError

MAX_LINE_BYTES = 1 << 20
MAX_COMPRESSION_RATIO = 100
# Below this a high ratio harms nobody, and a short file of equal rows is no bomb.
FREE_UNPACKED_BYTES = 4 << 20
_INFLATE_BYTES = 256 << 10
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS
#: xz -9 needs 65 MiB, of which it touches as much as the file has unpacked bytes.
_XZ_MEMORY_BYTES = 72 << 20


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip file, in pieces of at most 256 KiB; several members are one file.

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


class _Decoder(Protocol):
    """What ``lzma`` and ``bz2`` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def unxz(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of an xz file, as ``gunzip``."""
    make = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)  # noqa: E731
    return _unpacked(chunks, make, "xz")


def bunzip2(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a bzip2 file, as ``gunzip``."""
    return _unpacked(chunks, bz2.BZ2Decompressor, "bzip2")


def _unpacked(chunks: Iterable[bytes], make: Callable[[], _Decoder], name: str) -> Iterator[bytes]:
    decoder = make()
    packed = unpacked = 0
    for chunk in chunks:
        packed += len(chunk)
        data = chunk
        while True:
            if decoder.eof:
                data = data.lstrip(b"\0")  # padding between streams
                if not data:
                    break
                decoder = make()
            try:
                piece = decoder.decompress(data, _INFLATE_BYTES)
            except (lzma.LZMAError, OSError, ValueError) as error:
                raise FileError(
                    "invalid_archive", f"the {name} data are broken ({error})", "compress it again"
                ) from None
            data = decoder.unused_data if decoder.eof else b""
            unpacked += len(piece)
            check_ratio(packed, unpacked)
            yield piece
            if not decoder.eof and decoder.needs_input:
                break
    if not decoder.eof:
        raise FileError(
            "invalid_archive", f"the {name} data end too early", "upload the whole file"
        )


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
    """Lines without their ``\\n``. An overlong line is cut, but stays longer than
    ``MAX_LINE_BYTES``, so that the caller can tell."""
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
