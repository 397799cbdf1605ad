"""Base models of the model hub: one commit's model files, each size and hash checked."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.utils.tqdm import tqdm
from pydantic import SecretStr

from app.base_models.catalogue import HubSource
from app.base_models.errors import (
    BadSnapshotError,
    BaseModelError,
    DiskFullError,
    GatedModelError,
    ModelNotFoundError,
    SourceUnavailableError,
)
from app.base_models.snapshot import check_listing, file_sha256, is_model_file

API_TIMEOUT_SECONDS = 30.0
COMMIT = re.compile(r"[0-9a-f]{40}")
#: An answer that is not the hub's (a proxy's page, say) ends in one of the last four.
_CLIENT_ERRORS = (httpx2.HTTPError, OSError, XetDownloadError)
_NONSENSE = (ValueError, KeyError, TypeError, RuntimeError)


class HubFile(NamedTuple):
    """One file of a commit; small files have no sha256 on the hub."""

    size: int
    sha256: str | None


class HubCommit(NamedTuple):
    """What the hub says of a revision: its commit and the files of the model."""

    commit: str
    files: dict[str, HubFile]


def look_up(source: HubSource, token: SecretStr | None, endpoint: str, max_bytes: int) -> HubCommit:
    """Resolve the revision to its commit and list it, in one request; nothing is downloaded."""
    # token=False: never the one that a login left in somebody's home directory
    api = HfApi(endpoint=endpoint, token=_plain(token))
    with _faults(source):
        info = api.model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=API_TIMEOUT_SECONDS
        )
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise SourceUnavailableError(f"{endpoint} named no commit for {source}.")
    sizes, files = {}, {}
    for sibling in info.siblings or ():
        name, size = sibling.rfilename, sibling.size or 0
        sizes[name] = size
        if is_model_file(name):
            files[name] = HubFile(size, sibling.lfs.sha256 if sibling.lfs else None)
    check_listing(sizes, max_bytes)
    return HubCommit(commit, files)


def download(
    source: HubSource, found: HubCommit, directory: Path, token: SecretStr | None, endpoint: str
) -> None:
    """Put the files of a commit into a directory; what a broken download left there is used."""
    for name, expected in found.files.items():
        with _faults(source):
            hf_hub_download(
                source.repo,
                name,
                revision=found.commit,
                local_dir=directory,
                token=_plain(token),
                endpoint=endpoint,
                tqdm_class=_NoBar,
            )
        _check_file(source, directory / name, expected)
    shutil.rmtree(directory / ".cache", ignore_errors=True)


def _check_file(source: HubSource, path: Path, expected: HubFile) -> None:
    is_whole = path.stat().st_size == expected.size
    if is_whole and expected.sha256 in (None, file_sha256(path)):
        return
    path.unlink()
    raise SourceUnavailableError(
        f"{path.name} of {source} arrived damaged: its size or sha256 is not what the hub lists."
    )


def _plain(token: SecretStr | None) -> str | bool:
    return token.get_secret_value() if token else False


@contextmanager
def _faults(source: HubSource) -> Iterator[None]:
    """Turn the hub client's errors into ours. Their texts repeat what the server said, which is
    not ours to log (it may echo the request), so nothing of them is kept but the status."""
    try:
        yield
    except (*_CLIENT_ERRORS, *_NONSENSE) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC):
            raise
        raise _fault(source, error) from None


def _fault(source: HubSource, error: Exception) -> BaseModelError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFullError(f"The disk filled up while {source} was fetched.")
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(cause, GatedRepoError) or status in (401, 403):
        return GatedModelError(
            f"The hub refuses {source}: it is gated or private, or does not exist.",
            hint="Set PLAUDIT_HUB_TOKEN to a token whose owner may read this model.",
        )
    if isinstance(cause, RevisionNotFoundError):
        return ModelNotFoundError(f"The hub has no revision {source.revision!r} of {source.repo}.")
    if isinstance(cause, RepositoryNotFoundError | RemoteEntryNotFoundError) or status == 404:
        return ModelNotFoundError(f"The hub has no {source}.")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return BadSnapshotError(f"The hub answered {status} for {source}.")
    what = f"answered {status}" if status else f"could not be reached ({type(error).__name__})"
    return SourceUnavailableError(f"The hub {what} while {source} was fetched.")


class _NoBar(tqdm):
    """A worker's log is no place for a progress bar."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
