"""Download a split of a dataset from the model hub, and check size and hash of every file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils.tqdm import tqdm

from app.base_models.catalogue import HubSource
from app.base_models.errors import (
    BadSnapshotError,
    BaseModelError,
    DiskFullError,
    ModelNotFoundError,
    SourceUnavailableError,
)
from app.base_models.hub import (
    API_TIMEOUT_SECONDS,
    COMMIT,
    HubFile,
    bounded,
    check_file,
    hub_file,
    plain_token,
    translated_errors,
)
from app.core.settings import Settings
from app.datasets.announced import format_of_name
from app.datasets.hub_splits import SplitNotFoundError, split_files
from app.datasets.part_uploads import MAX_PARTS
from app.datasets.several_files import SourceFile
from app.domain.lifecycle import FailureCode

_READ_BYTES = 1 << 20


class SourceNotFoundError(BaseModelError):
    """The hub has no such dataset, revision, configuration or split."""

    code = "source_not_found"
    title = "The source does not exist"
    failure = FailureCode.SOURCE_NOT_FOUND


class SourceTooLargeError(BaseModelError):
    """The split has more files or bytes than the operator allows."""

    code = "source_too_large"
    title = "The source is too large"
    failure = FailureCode.SOURCE_TOO_LARGE


@dataclass(frozen=True)
class HubSplit:
    """Split of a dataset at one commit, with its files by name."""

    commit: str
    files: dict[str, HubFile]

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.size for file in self.files.values())


def look_up_split(
    settings: Settings, source: HubSource, config: str | None, split: str
) -> HubSplit:
    """Resolve a revision to its commit and find the files of a split with one request.

    Raises:
        BaseModelError: one of its subclasses names the failure code.
    """
    api = HfApi(endpoint=settings.hub_endpoint, token=plain_token(settings.hub_token))
    try:
        with _errors_of_source(source):
            info = api.dataset_info(
                source.repo,
                revision=source.revision,
                files_metadata=True,
                timeout=API_TIMEOUT_SECONDS,
            )
            card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
            known = {each.rfilename: each for each in info.siblings or ()}
            names = split_files(known, card, config, split)
    except SplitNotFoundError as error:
        raise SourceNotFoundError(f"{source}: {error}") from None
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise SourceUnavailableError(f"{settings.hub_endpoint} returned no commit for {source}.")
    found = HubSplit(commit, {name: hub_file(source, known[name]) for name in names})
    _check_size(settings, source, found)
    return found


def download_split(
    settings: Settings,
    source: HubSource,
    split: HubSplit,
    directory: Path,
    check_interrupt: Callable[[], None],
) -> list[SourceFile]:
    """Download the files of a split into a directory, one after the other.

    ``check_interrupt`` is called again and again; what it raises passes through.

    Raises:
        BaseModelError: one of its subclasses names the failure code.
    """
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if split.size > free:
        raise DiskFullError(f"{source} needs {split.size} bytes, but {free} are free.")
    files = []
    for name, expected in split.files.items():
        check_interrupt()
        bar = bounded(expected.size, check_interrupt)
        _download(settings, HubSource(source.repo, split.commit), name, directory, bar)
        check_file(source, directory / name, expected)
        files.append(_source_file(directory / name, name))
    return files


def _download(
    settings: Settings, source: HubSource, name: str, directory: Path, bar: type[tqdm]
) -> None:
    with _errors_of_source(source):
        hf_hub_download(
            source.repo,
            name,
            repo_type="dataset",
            revision=source.revision,
            local_dir=directory,
            token=plain_token(settings.hub_token),
            endpoint=settings.hub_endpoint,
            tqdm_class=bar,
        )


@contextmanager
def _errors_of_source(source: HubSource) -> Iterator[None]:
    """Translate errors of the hub client; those about models are about the source here."""
    try:
        with translated_errors(source):
            yield
    except (ModelNotFoundError, BadSnapshotError) as error:
        raise SourceNotFoundError(error.detail) from None


def _check_size(settings: Settings, source: HubSource, split: HubSplit) -> None:
    largest = max(file.size for file in split.files.values())
    if len(split.files) > MAX_PARTS:
        raise SourceTooLargeError(f"{source} has {len(split.files)} files, more than {MAX_PARTS}.")
    if largest > settings.max_upload_bytes or split.size > settings.max_parts_bytes:
        raise SourceTooLargeError(
            f"{source} has {split.size} bytes, {largest} of them in one file; the limits are "
            f"{settings.max_parts_bytes} and {settings.max_upload_bytes}."
        )


def _source_file(path: Path, name: str) -> SourceFile:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
    file_format = format_of_name(name) or "jsonl"
    return SourceFile(name, file_format, digest.hexdigest(), size, lambda: _chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            yield chunk
