"""Base models under /hub. The operator chooses: refuse, redirect to their hub, or serve files.

In the mode ``redirect``, this service answers metadata and HEAD requests itself and redirects only
GET requests for files. ``huggingface_hub`` sends its token to the target of a redirected HEAD
request, but not to that of a GET.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine

from app.base_models import hub, sources
from app.base_models.catalogue import BaseModelEntry, Catalogue, HubSource
from app.base_models.errors import BaseModelError, ModelNotFoundError
from app.base_models.facts import facts_for
from app.base_models.snapshot import is_model_file
from app.core.database import transaction
from app.core.errors import NotFoundError, UnavailableError
from app.core.settings import Settings
from app.hub_api.repositories import BRANCH, RepoFile, Repository

CHUNK_BYTES = 1 << 20
#: Seconds for which a file list of the hub is cached.
LISTING_SECONDS = 300
#: Limits concurrent requests to the hub: each occupies a thread until the hub responds.
_LOOK_UPS = threading.BoundedSemaphore(2)


class BaseModelElsewhereError(NotFoundError):
    """The repository is not an adapter, and PLAUDIT_HUB_BASE_MODELS does not allow serving it as a
    base model.
    """

    code = "base_model_elsewhere"
    title = "Not served here"
    next_step = (
        "Load the base model from its own hub or from a directory, or ask the operator to serve "
        "base models. Adapters are served here."
    )


@dataclass(frozen=True)
class BaseModels:
    """The base models of the catalogue, as repositories."""

    engine: Engine
    catalogue: Catalogue
    settings: Settings

    def repository(self, name: str) -> Repository:
        """Return the base model with this catalogue id or with this name on the hub.

        Raises:
            BaseModelElsewhereError, UnavailableError
        """
        mode = self.settings.hub_base_models
        entry = next((e for e in self.catalogue.entries if name in _names(e)), None)
        if mode == "refuse" or entry is None:
            reason = "base models are not served" if mode == "refuse" else "not in the catalogue"
            raise elsewhere(name, reason)
        with transaction(self.engine) as session:
            facts = facts_for(session, entry)
        revision = facts.revision if facts else None
        if mode == "redirect":
            return self._redirected(name, entry, revision)
        return self._on_disk(name, entry, revision)

    def _on_disk(self, name: str, entry: BaseModelEntry, revision: str | None) -> Repository:
        found = sources.on_disk(entry, self.settings.model_cache, revision)
        if found is None:
            raise elsewhere(name, "its files are not on the disk of this service")
        root = Path(os.path.realpath(found.path))
        listed = [
            (path.name, real, real.stat())
            for path in sorted(root.iterdir())
            if is_model_file(path.name)
            and (real := Path(os.path.realpath(path))).is_relative_to(root)
            and real.is_file()
        ]
        lines = "".join(f"{n} {s.st_size} {s.st_mtime_ns}\n" for n, _, s in listed)
        digest = hashlib.sha256(lines.encode()).hexdigest()[:40]
        is_pinned = isinstance(entry.source, HubSource) and found.revision is not None
        files = [
            RepoFile(
                name=n,
                size=status.st_size,
                sha256=None,
                blob_id=hashlib.sha256(f"{digest} {n}".encode()).hexdigest()[:40],
                read=lambda start, stop, real=real: _read(real, start, stop),  # type: ignore[misc]
            )
            for n, real, status in listed
        ]
        return _repository(name, entry, str(found.revision) if is_pinned else digest, files)

    def _redirected(self, name: str, entry: BaseModelEntry, revision: str | None) -> Repository:
        if not isinstance(entry.source, HubSource):
            raise elsewhere(name, "its source is not a hub")
        source = HubSource(entry.source.repo, revision or entry.source.revision)
        found = self._listing(name, source)
        base = f"{self.settings.hub_endpoint}/{source.repo}/resolve/{found.commit}"
        files = [
            RepoFile(
                name=n,
                size=file.size,
                sha256=file.sha256,
                blob_id=hashlib.sha256(f"{found.commit} {n}".encode()).hexdigest()[:40],
                location=f"{base}/{quote(n)}",
            )
            for n, file in sorted(found.files.items())
        ]
        return _repository(name, entry, found.commit, files)

    def _listing(self, name: str, source: HubSource) -> hub.HubCommit:
        try:
            return _look_up(self.settings, source, int(time.monotonic() // LISTING_SECONDS))
        except ModelNotFoundError as error:
            raise elsewhere(name, "its hub has no such model") from error
        except BaseModelError as error:
            raise UnavailableError(f"The hub does not list {name}: {error.title}.") from error


@lru_cache(maxsize=64)
def _look_up(settings: Settings, source: HubSource, _period: int) -> hub.HubCommit:
    """Request the file list of a revision from the hub. Errors are not cached."""
    if not _LOOK_UPS.acquire(blocking=False):
        raise UnavailableError("Too many requests to the hub are in progress.")
    try:
        return hub.look_up(
            source, settings.hub_token, settings.hub_endpoint, settings.max_base_model_bytes
        )
    finally:
        _LOOK_UPS.release()


def elsewhere(name: str, reason: str) -> BaseModelElsewhereError:
    """Return the error for a repository that is not served."""
    return BaseModelElsewhereError(
        f"{name[:200]!r} is not an adapter (ad_…), and {reason}.",
        hint=BaseModelElsewhereError.next_step,
    )


def _repository(name: str, entry: BaseModelEntry, commit: str, files: list[RepoFile]) -> Repository:
    source = entry.source
    return Repository(
        id=name,
        commit=commit,
        files=files,
        tags=[f"license:{entry.license}"] if entry.license else [],
        library="transformers",
        changed_at=None,
        branch=source.revision if isinstance(source, HubSource) else BRANCH,
    )


def _names(entry: BaseModelEntry) -> set[str]:
    """Return the catalogue id and, for a hub model, the name that adapters have in their config."""
    is_on_hub = isinstance(entry.source, HubSource)
    return {entry.id, entry.source.repo} if is_on_hub else {entry.id}  # type: ignore[union-attr]


def _read(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (data := file.read(min(CHUNK_BYTES, stop - start))):
            start += len(data)
            yield data
