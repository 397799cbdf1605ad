"""The deterministic tar archive of an adapter. It is computed on the fly and never stored."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from sqlalchemy import Engine

from app.storage.blobs import read_range

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


class ArchivedFile(Protocol):
    """A member of the archive: id and size of its blob."""

    @property
    def id(self) -> str: ...
    @property
    def size(self) -> int: ...


class _Piece(NamedTuple):
    size: int
    data: bytes | None  # None: the bytes of the blob
    blob_id: str = ""


def archive_size(files: Mapping[str, ArchivedFile]) -> int:
    """Return the size of the archive in bytes."""
    return sum(piece.size for piece in _pieces(files))


def read_archive(
    engine: Engine, files: Mapping[str, ArchivedFile], start: int, stop: int
) -> Iterator[bytes]:
    """Yield bytes ``start`` to ``stop`` (exclusive) of the archive of ``files`` (name to blob)."""
    position = 0
    for piece in _pieces(files):
        low, high = max(start - position, 0), min(stop - position, piece.size)
        if low < high:
            if piece.data is not None:
                yield piece.data[low:high]
            else:
                yield from read_range(engine, piece.blob_id, low, high)
        position += piece.size


def archive_digest(engine: Engine, files: Mapping[str, ArchivedFile]) -> tuple[str, int]:
    """Return the sha256 and the size in bytes of the archive."""
    size = archive_size(files)
    digest = hashlib.sha256()
    for data in read_archive(engine, files, 0, size):
        digest.update(data)
    return digest.hexdigest(), size


def _pieces(files: Mapping[str, ArchivedFile]) -> Iterable[_Piece]:
    """Yield the archive in POSIX ustar format: sorted names, mode 0644, owner and time zero."""
    total = 0
    for name in sorted(files):
        info = tarfile.TarInfo(name)
        info.size = files[name].size
        header = info.tobuf(tarfile.USTAR_FORMAT)
        padding = -info.size % BLOCK
        yield _Piece(len(header), header)
        yield _Piece(info.size, None, files[name].id)
        yield _Piece(padding, b"\0" * padding)
        total += len(header) + info.size + padding
    end = 2 * BLOCK + -(total + 2 * BLOCK) % RECORD
    yield _Piece(end, b"\0" * end)
