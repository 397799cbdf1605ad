"""Copy the files of checkpoints and adapters between a directory and the database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Engine

from app.core.settings import Settings
from app.domain.progress import FileEntry
from app.models import StoredFile
from app.storage.blobs import BlobWriter, StoredBlob, read_range


class ArtifactDamagedError(Exception):
    """The content of a file does not match its recorded size or sha256."""


class ArtifactTooLargeError(Exception):
    """The files exceed ``Settings.max_artifact_bytes``."""


def store(
    engine: Engine, settings: Settings, directory: Path, entries: Sequence[FileEntry]
) -> dict[str, StoredBlob]:
    """Copy files of a directory into the database and return their blobs by file name.

    Raises:
        ArtifactTooLargeError: Nothing was stored.
        ArtifactDamagedError: A file does not match its entry.
    """
    total = sum(entry.size for entry in entries)
    if total > settings.max_artifact_bytes:
        raise ArtifactTooLargeError(f"{total} bytes, the limit is {settings.max_artifact_bytes}")
    blobs: dict[str, StoredBlob] = {}
    with ExitStack() as opened:
        # Open all files first: an open file survives its deletion. The trainer deletes all but its
        # newest checkpoints, so if storing one took longer than writing the next two, none would
        # ever be stored.
        files = {e.name: opened.enter_context((directory / e.name).open("rb")) for e in entries}
        for entry in sorted(entries, key=lambda e: e.name):
            with BlobWriter(engine) as writer:
                while piece := files[entry.name].read(1 << 20):
                    writer.write(piece)
                blob = writer.finish()
            if (blob.sha256, blob.size) != (entry.sha256, entry.size):
                raise ArtifactDamagedError(
                    f"{entry.name} does not match the size and sha256 that the trainer reported"
                )
            blobs[entry.name] = blob
    return blobs


def file_rows(owner_id: str, blobs: dict[str, StoredBlob]) -> list[StoredFile]:
    """Return the rows that make the blobs files of a checkpoint or an adapter."""
    return [
        StoredFile(owner_id=owner_id, name=name, blob_id=b.id, sha256=b.sha256, size=b.size)
        for name, b in blobs.items()
    ]


def fetch(engine: Engine, blob_id: str, size: int, target: Path, sha256: str) -> None:
    """Write a blob to a local file.

    Raises:
        ArtifactDamagedError: The bytes do not match ``sha256``.
    """
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for piece in read_range(engine, blob_id, 0, size):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise ArtifactDamagedError(f"{target.name} does not match its stored sha256")
