"""Download base models from the model hub; the size and hash of every file are checked."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.hf_api import RepoSibling
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
#: Bytes beyond the size of a file after which its download is ended. A protocol of the client that
#: sends the file in pieces may send a little more than the file.
SLACK_BYTES = 64 << 20
_CLIENT_ERRORS = (httpx2.HTTPError, OSError, XetDownloadError)
#: Errors of the hub client for a response that is not the hub's, such as a proxy's error page.
_PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)


class FileTooLongError(RuntimeError):
    """The hub sends more bytes than it announced."""


class HubFile(NamedTuple):
    """A file of a commit. The hub has no sha256 for small files."""

    size: int
    sha256: str | None


class HubCommit(NamedTuple):
    """The commit of a revision, and the files of the model in it."""

    commit: str
    files: dict[str, HubFile]


def look_up(source: HubSource, token: SecretStr | None, endpoint: str, max_bytes: int) -> HubCommit:
    """Resolve a revision to its commit and list its files, in one request.

    Raises:
        BaseModelError: One of its subclasses; see ``app.base_models.errors``.
    """
    api = HfApi(endpoint=endpoint, token=plain_token(token))
    with translated_errors(source):
        info = api.model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=API_TIMEOUT_SECONDS
        )
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise SourceUnavailableError(f"{endpoint} returned no commit for {source}.")
    sizes, files = {}, {}
    for sibling in info.siblings or ():
        name = sibling.rfilename
        sizes[name] = sibling.size or 0
        if is_model_file(name):
            files[name] = hub_file(source, sibling)
    check_listing(sizes, max_bytes)
    return HubCommit(commit, files)


def download(
    source: HubSource, found: HubCommit, directory: Path, token: SecretStr | None, endpoint: str
) -> None:
    """Download the files of a commit into a directory; an interrupted download is continued.

    Raises:
        BaseModelError: One of its subclasses; see ``app.base_models.errors``.
    """
    for name, expected in found.files.items():
        with translated_errors(source):
            hf_hub_download(
                source.repo,
                name,
                revision=found.commit,
                local_dir=directory,
                token=plain_token(token),
                endpoint=endpoint,
                tqdm_class=bounded(expected.size),
            )
        check_file(source, directory / name, expected)
    shutil.rmtree(directory / ".cache", ignore_errors=True)


def hub_file(source: HubSource, sibling: RepoSibling) -> HubFile:
    """Return size and sha256 of a file in a listing.

    Raises:
        SourceUnavailableError: the listing has no size; limits could not be checked.
    """
    size, lfs = sibling.size, sibling.lfs
    if not isinstance(size, int) or size < 0:
        raise SourceUnavailableError(
            f"The hub's listing of {source} has no size of {str(sibling.rfilename)[:200]!r}."
        )
    return HubFile(size, lfs.sha256 if lfs else None)


def check_file(source: HubSource, path: Path, expected: HubFile) -> None:
    """Compare the size and, where the hub has one, the sha256 of a file; delete a damaged one.

    Raises:
        SourceUnavailableError
    """
    is_whole = path.stat().st_size == expected.size
    if is_whole and expected.sha256 in (None, file_sha256(path)):
        return
    path.unlink()
    raise SourceUnavailableError(
        f"{path.name} of {source} is damaged: its size or sha256 differs from the hub's."
    )


def plain_token(token: SecretStr | None) -> str | bool:
    """The token as the hub client takes it."""
    # False prevents the hub client from using a token from the user's home directory.
    return token.get_secret_value() if token else False


@contextmanager
def translated_errors(source: HubSource) -> Iterator[None]:
    """Translate errors of the hub client into BaseModelError.

    Only the status is kept. The texts repeat the server's response, which may contain the request
    with its token and must not be logged.
    """
    try:
        yield
    except (*_CLIENT_ERRORS, *_PARSE_ERRORS) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC):
            raise
        raise _translate(source, error) from None


def _translate(source: HubSource, error: Exception) -> BaseModelError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFullError(f"The disk became full during the download of {source}.")
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(error, HFValidationError):
        return ModelNotFoundError(f"No repository of the hub can be named {source.repo!r}.")
    if isinstance(error, FileTooLongError) or type(error) is OSError:  # as the client raises it
        return SourceUnavailableError(f"The hub sent a file of {source} with a wrong size.")
    if isinstance(cause, GatedRepoError) or status in (401, 403):
        return GatedModelError(
            f"The hub denies access to {source}: it is gated or private, or does not exist.",
            hint="Set PLAUDIT_HUB_TOKEN to a token whose owner may read this model.",
        )
    if isinstance(cause, RevisionNotFoundError):
        return ModelNotFoundError(f"The hub has no revision {source.revision!r} of {source.repo}.")
    if isinstance(cause, RepositoryNotFoundError | RemoteEntryNotFoundError) or status == 404:
        return ModelNotFoundError(f"The hub has no {source}.")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return BadSnapshotError(f"The hub returned status {status} for {source}.")
    name = type(error).__name__
    what = (
        f"gave an unexpected answer ({name})"
        if isinstance(error, _PARSE_ERRORS)
        else (f"returned status {status}" if status else f"is unreachable ({name})")
    )
    return SourceUnavailableError(f"The hub {what}; {source} was not downloaded.")


def bounded(size: int, check_interrupt: Callable[[], None] = lambda: None) -> type[tqdm]:
    """Return a progress bar for a download that shows nothing, but can end it.

    The hub client calls it for every few mebibytes. A longer file than the announced ``size`` would
    fill the disk: the client compares sizes at the end. What ``check_interrupt`` raises passes
    through.
    """

    class Bar(tqdm):
        received = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            # A visible bar would fill the log of a worker.
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            check_interrupt()
            self.received += int(n or 0)  # negative if the download starts again
            if self.received > size + SLACK_BYTES:
                raise FileTooLongError

    return Bar
