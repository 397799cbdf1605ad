"""Bytes of an upload as they come: unpacked within bounds, cut into lines."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from app.datasets.row_errors import FileError, ProblemCode

MAX_LINE_BYTES = 1 << 20
MAX_COMPRESSION_RATIO = 100
# Below this a high ratio harms nobody, and a short file of equal rows is no bomb.
FREE_UNPACKED_BYTES = 4 << 20
#: Members of a compressed file that may be empty, and what each further one must hold on average.
FREE_MEMBERS = 1000
MIN_MEMBER_BYTES = 4 << 10
_INFLATE_BYTES = 256 << 10
#: Given to a decoder at once: what a member leaves unused of it is copied for the next one.
_FEED_BYTES = 16 << 10
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS
#: xz -9 needs 65 MiB, of which it touches as much as the file has unpacked bytes.
_XZ_MEMORY_BYTES = 72 << 20


class _Decoder(Protocol):
    """What the decoders of one member (gzip) or stream (xz, bzip2) have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipMember:
    """A decoder of ``zlib`` with the interface of those of ``lzma`` and ``bz2``."""

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
    """The content of a gzip file, in pieces of at most 256 KiB; several members are one file.

    Raises:
        FileError: broken or cut off, unpacks to more than 100 times its size, or consists of many
            members with next to nothing in them.
    """
    return _unpacked(chunks, _GzipMember, "gzip", "invalid_gzip")


def unxz(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of an xz file, as ``gunzip``."""
    make = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)  # noqa: E731
    return _unpacked(chunks, make, "xz", "invalid_archive")


def bunzip2(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a bzip2 file, as ``gunzip``."""
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
                    data = data.lstrip(b"\0")  # padding that some tapes and tools leave
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
    """Refuse a file of many members that are nearly empty: each costs as much as some kilobytes.

    The blocks of bgzip, the smallest in use, hold up to 64 KiB.

    Raises:
        FileError: they are.
    """
    if members > FREE_MEMBERS + unpacked // MIN_MEMBER_BYTES:
        raise FileError(
            "compression_ratio",
            f"the file has {members} compressed parts with {unpacked} bytes in all",
            "compress it again, as one part",
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
