"""The files of checkpoints and adapters, between a directory and the database."""

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
    """A file does not hash to what its maker said."""


class ArtifactTooLargeError(Exception):
    """More bytes than the operator allows."""


def store(
    engine: Engine, settings: Settings, directory: Path, entries: Sequence[FileEntry]
) -> dict[str, StoredBlob]:
    """Copy a directory's files into the database; their blobs by file name.

    Raises:
        ArtifactTooLarge: nothing was stored.
        ArtifactDamaged: a file is not what ``entries`` say.
    """
    total = sum(entry.size for entry in entries)
    if total > settings.max_artifact_bytes:
        raise ArtifactTooLargeError(f"{total} bytes, the limit is {settings.max_artifact_bytes}")
    blobs: dict[str, StoredBlob] = {}
    with ExitStack() as opened:
        # All at once, for what is open stays: a trainer removes all but its newest checkpoints.
        # Where storing one takes longer than making the next two, none would ever be stored.
        files = {e.name: opened.enter_context((directory / e.name).open("rb")) for e in entries}
        for entry in sorted(entries, key=lambda e: e.name):
            with BlobWriter(engine) as writer:
                while piece := files[entry.name].read(1 << 20):
                    writer.write(piece)
                blob = writer.finish()
            if (blob.sha256, blob.size) != (entry.sha256, entry.size):
                raise ArtifactDamagedError(f"{entry.name} is not what the trainer said it wrote")
            blobs[entry.name] = blob
    return blobs


def file_rows(owner_id: str, blobs: dict[str, StoredBlob]) -> list[StoredFile]:
    """Rows that name the blobs as files of a checkpoint or an adapter."""
    return [
        StoredFile(owner_id=owner_id, name=name, blob_id=b.id, sha256=b.sha256, size=b.size)
        for name, b in blobs.items()
    ]


def fetch(engine: Engine, blob_id: str, size: int, target: Path, sha256: str) -> None:
    """Write a blob to a file of this machine; ArtifactDamaged when it is not what was stored."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for piece in read_range(engine, blob_id, 0, size):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise ArtifactDamagedError(f"{target.name} is not what was stored")
