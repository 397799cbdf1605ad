"""SHA-256 digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.domain.lifecycle import FailureCode
from app.domain.progress import FileEntry
from worker.reward_model.errors import TrainerError

_MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def file_entry(path: Path) -> FileEntry:
    """Return a file's name, size and digest."""
    return FileEntry(name=path.name, size=path.stat().st_size, sha256=_sha256(path))


def file_entries(directory: Path) -> list[FileEntry]:
    """Return an entry for each file in ``directory``, sorted by name."""
    return [file_entry(path) for path in sorted(directory.iterdir())]


def model_digest(model_dir: Path) -> str:
    """Return the digest over the names and digests of a model's files, sorted by name.

    It identifies a base model independently of where its files are stored.

    Raises:
        TrainerError: model_not_found if the directory does not exist.
    """
    if not model_dir.is_dir():
        raise TrainerError(
            FailureCode.MODEL_NOT_FOUND,
            f"the model directory {model_dir.name} does not exist on this worker",
        )
    digest = hashlib.sha256()
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.suffix in _MODEL_FILES:
            digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
