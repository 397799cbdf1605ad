"""Streams of uploaded bytes: bounded decompression and splitting into lines."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from app.datasets.row_errors import FileError, ProblemCode

MAX_LINE_BYTES = 1 << 20
MAX_COMPRESSION_RATIO = 100
# Below this size a high ratio is harmless: a short file of equal rows compresses well too.
FREE_UNPACKED_BYTES = 4 << 20
#: Number of members of a compressed file that may be empty. Further members must hold
#: MIN_MEMBER_BYTES each on average.
FREE_MEMBERS = 1000
MIN_MEMBER_BYTES = 4 << 10
_INFLATE_BYTES = 256 << 10
#: ``bytes.split`` looks at each byte, a search for the next line end at many at a time.
_SHORT_LINE_BYTES = 512
#: Bytes per call of a decoder. Small, because the rest after a member's end is copied.
_FEED_BYTES = 16 << 10
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS
#: xz -9 allocates 65 MiB, but touches only as much as the file has unpacked bytes.
_XZ_MEMORY_BYTES = 72 << 20


class _Decoder(Protocol):
    """Interface of the decoders of one member (gzip) or one stream (xz, bzip2)."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipMember:
    """Adapter that gives a ``zlib`` decoder the interface of those of ``lzma`` and ``bz2``."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_WITH_GZIP_HEADER)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._inflate.unconsumed_tail
        return piece


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress a gzip file in pieces of at most 256 KiB, and join its members.

    Raises:
        FileError: the file is broken or truncated, unpacks to more than 100 times its size, or
            has too many nearly empty members.
    """
    return _unpacked(chunks, _GzipMember, "gzip", "invalid_gzip")


def unxz(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress an xz file, with the limits and errors of ``gunzip``."""
    make = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)  # noqa: E731
    return _unpacked(chunks, make, "xz", "invalid_archive")


def bunzip2(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress a bzip2 file, with the limits and errors of ``gunzip``."""
    return _unpacked(chunks, bz2.BZ2Decompressor, "bzip2", "invalid_archive")


def _unpacked(
    chunks: Iterable[bytes], make: Callable[[], _Decoder], name: str, code: ProblemCode
) -> Iterator[bytes]:
    decoder = make()
    packed = unpacked = 0
    members = 1
    for chunk in chunks:
        packed += len(chunk)
        for start in range(0, len(chunk), _FEED_BYTES):
            data = chunk[start : start + _FEED_BYTES]
            while True:
                if decoder.eof:
                    data = data.lstrip(b"\0")  # padding that some tools write
                    if not data:
                        break
                    decoder, members = make(), members + 1
                    _check_members(members, unpacked)
                try:
                    piece = decoder.decompress(data, _INFLATE_BYTES)
                except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
                    what = f"the {name} data are broken ({error})"
                    raise FileError(code, what, "compress it again") from None
                data = decoder.unused_data if decoder.eof else b""
                unpacked += len(piece)
                check_ratio(packed, unpacked)
                if piece:
                    yield piece
                if not decoder.eof and decoder.needs_input:
                    break
    if not decoder.eof:
        raise FileError(code, f"the {name} data end too early", "upload the whole file")


def _check_members(members: int, unpacked: int) -> None:
    """Reject a file with many nearly empty members: decoding one costs as much as some kilobytes.

    The smallest members in use, the blocks of bgzip, hold up to 64 KiB.

    Raises:
        FileError: the average member is smaller than MIN_MEMBER_BYTES.
    """
    if members > FREE_MEMBERS + unpacked // MIN_MEMBER_BYTES:
        raise FileError(
            "compression_ratio",
            f"the file has {members} compressed parts with {unpacked} bytes in all",
            "compress it again, as one part",
        )


def check_ratio(packed: int, unpacked: int) -> None:
    """Reject a file that unpacks to more than 100 times its size and to more than 4 MiB.

    Raises:
        FileError: both limits are exceeded.
    """
    if unpacked > max(FREE_UNPACKED_BYTES, MAX_COMPRESSION_RATIO * packed):
        raise FileError(
            "compression_ratio",
            f"the file unpacks to more than {MAX_COMPRESSION_RATIO} times its size",
            "upload it uncompressed",
        )


def at_most(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield the chunks up to a total of ``max_bytes``.

    Raises:
        FileError: the chunks hold more bytes.
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
    """Yield lines without their ``\\n``.

    A line longer than ``MAX_LINE_BYTES`` is truncated, but stays longer than the limit, so that
    the caller can detect it.
    """
    rest = bytearray()
    for chunk in chunks:
        start = chunk.find(b"\n")
        if start >= 0:
            yield bytes(rest) + chunk[:start]
            rest.clear()
            start += 1
            # Searching for the next line end is faster than split, except for short lines.
            while (end := chunk.find(b"\n", start)) - start > _SHORT_LINE_BYTES:
                yield chunk[start:end]
                start = end + 1
            if end >= 0:
                lines = chunk[start:].split(b"\n")
                yield from lines[:-1]
                start = len(chunk) - len(lines[-1])
        if len(rest) <= MAX_LINE_BYTES:
            rest += chunk[max(start, 0) :]
    if rest:
        yield bytes(rest)
