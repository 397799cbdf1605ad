"""Token ids of whole datasets, kept on a worker's disk and shared by its jobs.

An entry is a directory: the ids of all texts one after the other, where each text ends, and a
manifest with the hashes of both, written last. Its name is a hash of all that the ids hang on, so
an entry never has to be taken back; one that is damaged is made anew, and the entries that were
used longest ago go when the cache is full.
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
#: Longer unused than this an entry goes, for what it holds is text of somebody's.
UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class TokenCache:
    """A directory of entries that may hold ``max_bytes`` together; ``drafts`` are made elsewhere.

    That is the trainer's own work directory, which is removed with it, however it ends. It never
    takes more than half of the disk that it could.
    """

    directory: Path
    max_bytes: int
    drafts: Path

    def entry(self, identity: object) -> CacheEntry:
        """The entry for what this JSON-like value says, there or not."""
        text = json.dumps(identity, sort_keys=True)
        return CacheEntry(self, self.directory / hashlib.sha256(text.encode()).hexdigest())

    def make_room(self) -> None:
        """Let go of the entries used longest ago until the rest fits, and of those long unused."""
        found = []
        for path in self.directory.iterdir():
            with suppress(OSError):  # another trainer makes room as well
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, size, path))
        taken = sum(size for _, size, _ in found)
        room = min(self.max_bytes, (taken + shutil.disk_usage(self.directory).free) // 2)
        for used_at, size, path in sorted(found, reverse=True):
            if size > room or used_at < time.time() - UNUSED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
            else:
                room -= size


@dataclass(frozen=True)
class CacheEntry:
    """The texts of one dataset as one tokenizer reads them."""

    cache: TokenCache
    path: Path

    def read(self) -> tuple[Ids, NDArray[np.int64]] | None:
        """The ids of all texts, which stay on disk, and where each ends; None if not there."""
        try:
            os.utime(self.path)  # first: hashing takes a while, and the least used one may go
            manifest = json.loads((self.path / MANIFEST).read_text())
            ids: Ids = np.asarray(np.memmap(self.path / IDS, dtype=np.int32, mode="r"))
            ends = np.fromfile(self.path / ENDS, dtype=np.int64)
            is_whole = manifest == _manifest(hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        except (FileNotFoundError, ValueError):  # ValueError: not JSON, cut, or empty
            is_whole = False
        if not is_whole:
            shutil.rmtree(self.path, ignore_errors=True)
            return None
        return ids, ends

    def write(self) -> CacheWriter:
        """Takes the entry's texts; call from a ``with`` block."""
        return CacheWriter(self)


class CacheWriter:
    """Writes an entry beside its place; only ``publish`` puts it there, whole.

    A disk that is full costs the entry and not the job.
    """

    def __init__(self, entry: CacheEntry) -> None:
        self._entry = entry
        self._end, self._is_broken = 0, False
        self._hashes = hashlib.sha256(), hashlib.sha256()

    def __enter__(self) -> CacheWriter:
        self._draft = Path(tempfile.mkdtemp(prefix="tokens-", dir=self._entry.cache.drafts))
        self._files: tuple[IO[bytes], IO[bytes]] = (
            (self._draft / IDS).open("wb"),
            (self._draft / ENDS).open("wb"),
        )
        return self

    def add(self, texts: Sequence[Ids]) -> None:
        """The next texts."""
        if self._is_broken:
            return
        ends = self._end + np.cumsum([len(ids) for ids in texts], dtype=np.int64)
        self._end = int(ends[-1])
        pieces = np.concatenate(texts).tobytes(), ends.tobytes()
        try:
            for file, hash_, piece in zip(self._files, self._hashes, pieces, strict=True):
                file.write(piece)
                hash_.update(piece)
        except OSError as error:
            self._give_up(error)

    def publish(self) -> None:
        """Every text was added: let others read them."""
        if self._is_broken:
            return
        cache = self._entry.cache
        try:
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            (self._draft / MANIFEST).write_text(json.dumps(_manifest(*self._hashes)))
            cache.directory.mkdir(parents=True, exist_ok=True)
            if not self._entry.path.exists():  # else another trainer was faster
                self._draft.rename(self._entry.path)
            cache.make_room()
        except OSError as error:
            self._give_up(error)

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._draft, ignore_errors=True)

    def _give_up(self, error: OSError) -> None:
        self._is_broken = True
        log.warning("token ids are not kept: %s", error)


def _manifest(ids: hashlib._Hash, ends: hashlib._Hash) -> dict[str, str]:
    return {"ids_sha256": ids.hexdigest(), "ends_sha256": ends.hexdigest()}
