"""Cache the token ids of complete datasets on a worker's disk, for all of its jobs.

An entry is a directory with one file per array (the concatenated ids of all texts, and their
metadata) and a manifest with the digests of all files, which is written last. The name of an entry
is a digest of everything that the ids depend on, so an entry never becomes stale. A damaged entry
is rebuilt. If the cache is full, the least recently used entries are evicted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

log = logging.getLogger(__name__)

Ids = NDArray[np.int32]
MANIFEST = "manifest.json"
#: Entries that are unused for longer are evicted, because they contain users' text.
MAX_UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class TokenCache:
    """A directory of entries that together take at most ``max_bytes``.

    The cache also leaves free at least half of the disk space that it could use.
    """

    directory: Path
    max_bytes: int

    def entry(self, identity: object) -> CacheEntry:
        """Return the entry for a JSON-serialisable key; the entry may not exist yet."""
        text = json.dumps(identity, sort_keys=True)
        return CacheEntry(self, self.directory / hashlib.sha256(text.encode()).hexdigest())

    def evict(self) -> None:
        """Remove expired entries, then the least recently used ones until the rest fits."""
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

    def read(self) -> EntryFiles | None:
        """Return the files of the entry, or None if it is missing or damaged."""
        try:
            os.utime(self.path)  # first, because hashing takes time and old entries are evicted
            manifest = json.loads((self.path / MANIFEST).read_text())
            files = EntryFiles({name: _mapped(self.path / name) for name in manifest})
            is_intact = all(files.sha256(name) == digest for name, digest in manifest.items())
            files.release()
        except (FileNotFoundError, ValueError, AttributeError):  # invalid JSON, truncated files
            is_intact = False
        if not is_intact:
            shutil.rmtree(self.path, ignore_errors=True)
            return None
        return files

    def publish(self, draft: Draft) -> None:
        """Make a complete draft visible to other trainers; log a warning if the disk is full."""
        if draft.is_in_memory:
            return
        try:
            (draft.directory / MANIFEST).write_text(json.dumps(draft.digests()))
            self.cache.directory.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():  # otherwise another trainer has published it
                draft.directory.rename(self.path)
            self.cache.evict()
        except OSError as error:
            log.warning("cannot cache token ids: %s", error)


@dataclass(frozen=True)
class EntryFiles:
    """Content of files by name, mapped into memory; it stays valid if the files are deleted."""

    content: Mapping[str, bytearray | mmap]

    def array(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Return the content of a file as an array."""
        return np.frombuffer(self.content[name], dtype)

    def sha256(self, name: str) -> str:
        """Return the digest of a file, in hex."""
        return hashlib.sha256(self.content[name]).hexdigest()

    def release(self) -> None:
        """Give back the memory of all pages read so far; each is read again when it is needed."""
        for data in self.content.values():
            if isinstance(data, mmap):
                data.madvise(MADV_DONTNEED)


class Draft:
    """Growing files in a temporary directory, which is removed at the end of the block.

    If the disk is full, the files continue in memory.
    """

    def __init__(self, parent: Path, names: Iterable[str]) -> None:
        self._parent = parent
        self._names = tuple(names)
        self._hashes = {name: hashlib.sha256() for name in self._names}
        self._sizes = dict.fromkeys(self._names, 0)
        self._memory: dict[str, bytearray] | None = None

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="tokens-", dir=self._parent))
        self._files = {
            name: (self.directory / name).open("xb", buffering=0) for name in self._names
        }
        return self

    @property
    def is_in_memory(self) -> bool:
        """Whether the files are in memory, because the disk was full."""
        return self._memory is not None

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Append an array to a file."""
        data = np.ascontiguousarray(values).data.cast("B")
        self._hashes[name].update(data)
        if self._memory is None:
            try:
                self._write(name, data)
            except OSError as error:
                log.warning("token ids are kept in memory: %s", error)
                self._memory = {each: bytearray(self._written(each)) for each in self._names}
        if self._memory is not None:
            self._memory[name] += data
        self._sizes[name] += len(data)

    def files(self) -> EntryFiles:
        """Return the files written so far."""
        if self._memory is None:
            return EntryFiles({name: _mapped(self.directory / name) for name in self._names})
        return EntryFiles(self._memory)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file, in hex."""
        return {name: hash_.hexdigest() for name, hash_ in self._hashes.items()}

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: str, data: memoryview) -> None:
        while data:
            data = data[self._files[name].write(data) :]

    def _written(self, name: str) -> bytes:
        """Return the content before the write that failed."""
        with (self.directory / name).open("rb") as file:
            return file.read(self._sizes[name])


def _mapped(path: Path) -> bytearray | mmap:
    """Map a file into memory; return an empty array for an empty file, which cannot be mapped."""
    if not path.stat().st_size:
        return bytearray()
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
