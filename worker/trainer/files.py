"""What files hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.domain.lifecycle import FailureCode
from app.domain.progress import FileEntry
from worker.trainer.failures import TrainerFailure

_MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def file_entry(path: Path) -> FileEntry:
    """Name, size and hash of a file."""
    return FileEntry(name=path.name, size=path.stat().st_size, sha256=_sha256(path))


def file_entries(directory: Path) -> list[FileEntry]:
    """Of every file in a directory, by name."""
    return [file_entry(path) for path in sorted(directory.iterdir())]


def files_digest(model_dir: Path) -> str:
    """sha256 over names and hashes of a model's files: what a base model is, wherever it lies.

    Raises:
        TrainerFailure: model_not_found.
    """
    if not model_dir.is_dir():
        raise TrainerFailure(FailureCode.MODEL_NOT_FOUND, f"there is no directory {model_dir.name}")
    digest = hashlib.sha256()
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.suffix in _MODEL_FILES:
            digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
