"""What files hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.domain.lifecycle import FailureCode
from app.domain.progress import FileEntry
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError

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
        raise TrainerError(FailureCode.MODEL_NOT_FOUND, f"there is no directory {model_dir.name}")
    digest = hashlib.sha256()
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.suffix in _MODEL_FILES:
            digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def check_unchanged(order: WorkOrder, digest: str, found: str | None = None) -> None:
    """Hold the model's files against the ``digest`` they had when the plan or adapter was made.

    Not those of a commit, which never change: hashing them would take a second or two a gigabyte.
    ``found`` is what they hash to, where that is known.

    Raises:
        TrainerFailure: model_changed.
    """
    if found is None and order.revision is None:
        found = files_digest(Path(order.model_dir))
    if found not in (None, digest):
        raise TrainerError(
            FailureCode.MODEL_CHANGED,
            f"the files of {order.model_name} were replaced: they hash to {found}, to {digest} "
            "when this was planned. What is known of a model belongs to its catalogue entry, so "
            "other files need an entry with another id, or with their sha256",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
