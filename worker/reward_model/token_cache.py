"""Cache the token ids of whole datasets on a worker's disk, for all of its jobs.

An entry is a directory with the concatenated ids of all texts, the end offset of each text, and a
manifest with the digests of both files, written last. Its name is a digest of everything that the
ids depend on, so an entry never becomes stale. A damaged entry is rebuilt. When the cache is full,
the least recently used entries are evicted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Ids = NDArray[np.int32]
MANIFEST, IDS, ENDS = "manifest.json", "ids.bin", "ends.bin"
#: Entries that are unused for longer are evicted: they contain users' text.
MAX_UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class TokenCache:
    """A directory of entries that together take at most ``max_bytes``.

    The cache also leaves at least half of the disk space that it could use free. Entries are
    written in ``draft_dir``, the trainer's work directory, which is removed with the trainer.
    """

    directory: Path
    max_bytes: int
    draft_dir: Path

    def entry(self, identity: object) -> CacheEntry:
        """Return the entry for a JSON-serialisable key, whether it exists or not."""
        text = json.dumps(identity, sort_keys=True)
        return CacheEntry(self, self.directory / hashlib.sha256(text.encode()).hexdigest())

    def evict(self) -> None:
        """Remove entries that are unused for too long, and the oldest ones until the rest fits."""
        found = []
        for path in self.directory.iterdir():
            with suppress(OSError):  # another trainer may remove it at the same time
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, size, path))
        used = sum(size for _, size, _ in found)
        remaining = min(self.max_bytes, (used + shutil.disk_usage(self.directory).free) // 2)
        for used_at, size, path in sorted(found, reverse=True):
            if size > remaining or used_at < time.time() - MAX_UNUSED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
            else:
                remaining -= size


@dataclass(frozen=True)
class CacheEntry:
    """The token ids of one dataset with one tokenizer."""

    cache: TokenCache
    path: Path

    def read(self) -> tuple[Ids, NDArray[np.int64]] | None:
        """Return the ids of all texts, memory-mapped, and each text's end; None if absent."""
        try:
            os.utime(self.path)  # before hashing, which takes time: old entries may be evicted
            manifest = json.loads((self.path / MANIFEST).read_text())
            ids: Ids = np.asarray(np.memmap(self.path / IDS, dtype=np.int32, mode="r"))
            ends = np.fromfile(self.path / ENDS, dtype=np.int64)
            is_intact = manifest == _manifest(hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        except (FileNotFoundError, ValueError):  # ValueError: invalid JSON, truncated or empty file
            is_intact = False
        if not is_intact:
            shutil.rmtree(self.path, ignore_errors=True)
            return None
        return ids, ends

    def write(self) -> CacheWriter:
        """Return a writer; use it in a ``with`` block."""
        return CacheWriter(self)


class CacheWriter:
    """Writes an entry in the draft directory; ``publish`` renames it into the cache.

    A full disk loses the entry, not the job.
    """

    def __init__(self, entry: CacheEntry) -> None:
        self._entry = entry
        self._end, self._has_failed = 0, False
        self._hashes = hashlib.sha256(), hashlib.sha256()

    def __enter__(self) -> CacheWriter:
        self._draft = Path(tempfile.mkdtemp(prefix="tokens-", dir=self._entry.cache.draft_dir))
        self._files: tuple[IO[bytes], IO[bytes]] = (
            (self._draft / IDS).open("wb"),
            (self._draft / ENDS).open("wb"),
        )
        return self

    def add(self, texts: Sequence[Ids]) -> None:
        """Append the ids of texts."""
        if self._has_failed:
            return
        ends = self._end + np.cumsum([len(ids) for ids in texts], dtype=np.int64)
        self._end = int(ends[-1])
        pieces = np.concatenate(texts).tobytes(), ends.tobytes()
        try:
            for file, hash_, piece in zip(self._files, self._hashes, pieces, strict=True):
                file.write(piece)
                hash_.update(piece)
        except OSError as error:
            self._abandon(error)

    def publish(self) -> None:
        """Make the complete entry visible to other trainers."""
        if self._has_failed:
            return
        cache = self._entry.cache
        try:
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            (self._draft / MANIFEST).write_text(json.dumps(_manifest(*self._hashes)))
            cache.directory.mkdir(parents=True, exist_ok=True)
            if not self._entry.path.exists():  # otherwise another trainer has published it
                self._draft.rename(self._entry.path)
            cache.evict()
        except OSError as error:
            self._abandon(error)

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._draft, ignore_errors=True)

    def _abandon(self, error: OSError) -> None:
        self._has_failed = True
        log.warning("cannot cache token ids: %s", error)


def _manifest(ids: hashlib._Hash, ends: hashlib._Hash) -> dict[str, str]:
    return {"ids_sha256": ids.hexdigest(), "ends_sha256": ends.hexdigest()}
