"""Answers in the form of the Hugging Face Hub's API, as far as ``huggingface_hub`` reads them.

https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from app.models import Adapter, StoredFile
from app.web.pagination import rfc3339

BRANCH = "main"


def commit_of(adapter: Adapter) -> str:
    """The only commit of an adapter, which never changes: 40 hex digits."""
    return adapter.archive_sha256[:40]


def model_info(adapter: Adapter, files: Sequence[StoredFile]) -> dict[str, Any]:
    """``GET /api/models/{id}``."""
    return {
        "id": adapter.id,
        "modelId": adapter.id,
        "sha": commit_of(adapter),
        "private": True,
        "gated": False,
        "disabled": False,
        "lastModified": rfc3339(adapter.created_at),
        "createdAt": rfc3339(adapter.created_at),
        "library_name": "peft",
        "tags": ["peft", "reward-model", f"base_model:{adapter.base_model}"],
        "siblings": [
            {"rfilename": file.name, "size": file.size, "blobId": _blob_id(file), "lfs": _lfs(file)}
            for file in files
        ],
    }


def tree(files: Sequence[StoredFile]) -> list[dict[str, Any]]:
    """``GET /api/models/{id}/tree/{revision}``."""
    return [
        {
            "type": "file",
            "path": file.name,
            "size": file.size,
            "oid": _blob_id(file),
            "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134},
        }
        for file in files
    ]


def refs(adapter: Adapter) -> dict[str, Any]:
    """``GET /api/models/{id}/refs``."""
    branch = {
        "name": BRANCH,
        "ref": f"refs/heads/{BRANCH}",
        "targetCommit": commit_of(adapter),
    }
    return {"branches": [branch], "tags": [], "converts": []}


def _lfs(file: StoredFile) -> dict[str, Any]:
    return {"sha256": file.sha256, "size": file.size, "pointerSize": 134}


def _blob_id(file: StoredFile) -> str:
    """In place of the id of a git object, which nobody has."""
    return hashlib.sha256(file.sha256.encode()).hexdigest()[:40]
