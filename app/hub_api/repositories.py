"""Repositories of the hub API: adapters, and base models of the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from app.adapters import service
from app.core.database import transaction
from app.core.errors import NotFoundError
from app.models import Adapter, StoredFile
from app.storage.blobs import read_range

BRANCH = "main"


class RevisionNotFoundError(NotFoundError):
    """The repository has no such revision. An adapter has one: `main`, its only commit."""

    code = "revision_not_found"
    title = "No such revision"
    next_step = "Use the revision `main`."


class EntryNotFoundError(NotFoundError):
    """The repository has no file with this name."""

    code = "hub_file_not_found"
    title = "No such file"
    next_step = "List the files: `GET /hub/api/models/{id}`."

    def __init__(self, detail: str, commit: str) -> None:
        super().__init__(detail, hint=self.next_step)
        self.commit = commit


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository.

    ``blob_id`` (40 hex digits) replaces the id of a git object; it changes with the content.
    ``location`` is set instead of ``read`` if another server has the content.
    """

    name: str
    size: int
    sha256: str | None
    blob_id: str
    read: Callable[[int, int], Iterator[bytes]] | None = None
    location: str | None = None


@dataclass(frozen=True)
class Repository:
    """One commit with its files. ``changed_at`` is in epoch milliseconds, or None."""

    id: str
    commit: str
    files: Sequence[RepoFile]
    tags: Sequence[str]
    library: str
    changed_at: int | None
    branch: str = BRANCH

    def at(self, revision: str) -> Repository:
        """Return this repository if it has the revision.

        Raises:
            RevisionNotFoundError
        """
        if revision in (BRANCH, self.branch, self.commit):
            return self
        raise RevisionNotFoundError(f"{self.id} has no revision {revision[:100]!r}.")

    def file(self, name: str) -> RepoFile:
        """Return the file with this name.

        Raises:
            EntryNotFoundError
        """
        found = next((file for file in self.files if file.name == name), None)
        if found is None:
            raise EntryNotFoundError(f"{self.id} has no file {name[:200]!r}.", self.commit)
        return found


def adapter_repository(engine: Engine, tenant_id: str, adapter_id: str) -> Repository:
    """Return an adapter of the tenant as a repository. Its only commit never changes.

    Raises:
        AdapterNotFoundError
    """
    with transaction(engine) as session:
        adapter: Adapter = service.get(session, tenant_id, adapter_id)
        files = service.files(session, adapter)
    return Repository(
        id=adapter.id,
        commit=adapter.archive_sha256[:40],
        files=[_stored(engine, file) for file in files],
        tags=["peft", "reward-model", f"base_model:{adapter.base_model}"],
        library="peft",
        changed_at=adapter.created_at,
    )


def _stored(engine: Engine, file: StoredFile) -> RepoFile:
    return RepoFile(
        name=file.name,
        size=file.size,
        sha256=file.sha256,
        blob_id=hashlib.sha256(file.sha256.encode()).hexdigest()[:40],
        read=lambda start, stop: read_range(engine, file.blob_id, start, stop),
    )
