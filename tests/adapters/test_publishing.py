"""An adapter is published completely or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from app.adapters import publishing
from app.adapters.archive import archive_digest
from app.core.database import transaction
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState
from app.domain.progress import FileEntry
from app.job_queue import transitions
from app.job_queue.lease import WriteContext
from app.models import Adapter, Blob, BlobChunk, StoredFile
from app.storage import blobs
from app.storage.artifact_files import ArtifactDamagedError, ArtifactTooLargeError
from app.storage.blobs import StoredBlob
from tests.job_queue.factories import (
    TENANT,
    claim,
    count_rows,
    events_of,
    queue_job,
    read_job,
    write_adapter,
    write_files,
)

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights!" * 200_000}


@pytest.fixture
def context(engine: Engine, settings: Settings) -> WriteContext:
    """The write context of a new, claimed job."""
    queue_job(engine)
    return claim(engine, settings)


def test_adapter_is_published_with_the_end_of_the_job(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", FILES)
    adapter_id = publishing.publish(context, tmp_path / "adapter", adapter)
    job = read_job(engine, context.job_id)
    assert (job.status, job.adapter_id, job.lease_owner) == ("succeeded", adapter_id, None)
    with transaction(engine) as session:
        files = session.scalars(select(StoredFile).where(StoredFile.owner_id == adapter_id)).all()
        row = session.get_one(Adapter, adapter_id)
    stored = {f.name: b"".join(blobs.read_range(engine, f.blob_id, 0, f.size)) for f in files}
    assert stored == FILES
    found = {f.name: StoredBlob(f.blob_id, f.sha256, f.size) for f in files}
    assert archive_digest(engine, found) == (row.archive_sha256, row.archive_bytes)
    assert events_of(engine, context.job_id)[-1].type == "succeeded"


def test_success_wins_over_a_late_cancel(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with transaction(engine) as session:
        transitions.set_desired_state(session, TENANT, context.job_id, DesiredState.CANCEL)
    publishing.publish(context, tmp_path / "adapter", adapter)
    assert read_job(engine, context.job_id).status == "succeeded"


def test_adapter_over_the_limit_is_refused_before_anything_is_stored(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"max_artifact_bytes": 1000})
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with pytest.raises(ArtifactTooLargeError, match="1000"):
        publishing.publish(replace(context, settings=small), tmp_path / "adapter", adapter)
    assert count_rows(engine, Blob) == 0


def test_adapter_that_reads_back_differently_is_not_published(
    engine: Engine,
    context: WriteContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damage(*arguments: Any) -> bool:
        with transaction(engine) as session:
            session.execute(update(BlobChunk).where(BlobChunk.seq == 0).values(data=b"rot"))
        return blobs.is_intact(*arguments)

    monkeypatch.setattr(publishing, "is_intact", damage)
    adapter = write_adapter(tmp_path / "adapter", FILES)
    with pytest.raises(ArtifactDamagedError):
        publishing.publish(context, tmp_path / "adapter", adapter)
    assert read_job(engine, context.job_id).status == "running"
    assert count_rows(engine, Adapter) == 0


def test_files_with_equal_content_share_a_blob(
    engine: Engine, settings: Settings, context: WriteContext, tmp_path: Path
) -> None:
    entries = write_files(tmp_path / "twins", {"a.bin": b"same", "b.bin": b"same"})
    assert all(isinstance(entry, FileEntry) for entry in entries)
    adapter = write_adapter(tmp_path / "twins", {"a.bin": b"same", "b.bin": b"same"})
    publishing.publish(context, tmp_path / "twins", adapter)
    assert count_rows(engine, Blob) == 1
    assert count_rows(engine, StoredFile) == 2
