"""Responses of the Hugging Face Hub's API, with the fields that ``huggingface_hub`` reads.

https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from app.hub_api.repositories import EntryNotFoundError, RepoFile, Repository
from app.web.pagination import rfc3339


def model_info(repository: Repository) -> dict[str, Any]:
    """Return the response of ``GET /api/models/{id}``."""
    changed = rfc3339(repository.changed_at) if repository.changed_at is not None else None
    return {
        "id": repository.id,
        "modelId": repository.id,
        "sha": repository.commit,
        "private": True,
        "gated": False,
        "disabled": False,
        **({"lastModified": changed, "createdAt": changed} if changed else {}),
        "library_name": repository.library,
        "tags": list(repository.tags),
        "siblings": [
            {
                "rfilename": file.name,
                "size": file.size,
                "blobId": file.blob_id,
                **_lfs(file, "sha256"),
            }
            for file in repository.files
        ],
    }


def tree(repository: Repository, folder: str) -> list[dict[str, Any]]:
    """Return the response of ``GET /api/models/{id}/tree/{revision}/{folder}``.

    Raises:
        EntryNotFoundError: The folder has no files.
    """
    prefix = f"{folder}/" if folder else ""
    files = [file for file in repository.files if file.name.startswith(prefix)]
    if folder and not files:
        raise EntryNotFoundError(
            f"{repository.id} has no folder {folder[:200]!r}.", repository.commit
        )
    return [_entry(file) for file in files]


def paths_info(repository: Repository, paths: Collection[str]) -> list[dict[str, Any]]:
    """Return the response of ``POST /api/models/{id}/paths-info/{revision}``."""
    wanted = set(paths)
    return [_entry(file) for file in repository.files if file.name in wanted]


def refs(repository: Repository) -> dict[str, Any]:
    """Return the response of ``GET /api/models/{id}/refs``."""
    branch = {
        "name": repository.branch,
        "ref": f"refs/heads/{repository.branch}",
        "targetCommit": repository.commit,
    }
    return {"branches": [branch], "tags": [], "converts": [], "pullRequests": []}


def _entry(file: RepoFile) -> dict[str, Any]:
    return {
        "type": "file",
        "path": file.name,
        "size": file.size,
        "oid": file.blob_id,
        **_lfs(file, "oid"),
    }


def _lfs(file: RepoFile, name: str) -> dict[str, Any]:
    if file.sha256 is None:
        return {}
    return {"lfs": {name: file.sha256, "size": file.size, "pointerSize": 134}}
