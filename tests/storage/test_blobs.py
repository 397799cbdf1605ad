"""Blobs: bytes in chunks, deduplicated, and deleted when nothing refers to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select, update

from app.core.database import transaction
from app.core.settings import Settings
from app.job_queue.lease import WriteContext
from app.models import Blob, BlobChunk, StoredFile
from app.storage import blobs
from app.storage.blobs import CHUNK_BYTES, BlobWriter, StoredBlob
from tests.job_queue.factories import (
    claim,
    count_rows,
    queue_job,
    save_checkpoint,
)


@pytest.fixture
def context(engine: Engine, settings: Settings) -> WriteContext:
    """The write context of a new, claimed job."""
    queue_job(engine)
    return claim(engine, settings)


def store(engine: Engine, data: bytes) -> StoredBlob:
    with BlobWriter(engine) as writer:
        for start in range(0, len(data), 300_000):
            writer.write(data[start : start + 300_000])
        return writer.finish()


def age(engine: Engine, blob: StoredBlob) -> None:
    with transaction(engine) as session:
        session.execute(update(Blob).where(Blob.id == blob.id).values(created_at=1000))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 6_500_000])
def test_bytes_are_read_as_they_were_written(engine: Engine, size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    blob = store(engine, data)
    assert (blob.size, blob.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert b"".join(blobs.read_range(engine, blob.id, 0, size)) == data
    assert blobs.is_intact(engine, blob)
    for start, stop in ((0, 10), (size // 2, size), (CHUNK_BYTES - 5, CHUNK_BYTES + 5)):
        if stop <= size:
            assert b"".join(blobs.read_range(engine, blob.id, start, stop)) == data[start:stop]


def test_same_bytes_are_stored_once(engine: Engine) -> None:
    data = b"same" * 400_000
    assert store(engine, data) == store(engine, data)
    assert count_rows(engine, Blob) == 1
    assert count_rows(engine, BlobChunk) == 2


def test_missing_chunk_is_noticed(engine: Engine) -> None:
    blob = store(engine, b"x" * 2_500_000)
    with transaction(engine) as session:
        session.execute(delete(BlobChunk).where(BlobChunk.seq == 1))
    assert not blobs.is_intact(engine, blob)
    with pytest.raises(LookupError):
        list(blobs.read_range(engine, blob.id, 0, blob.size))


def test_interrupted_writer_deletes_its_chunks(engine: Engine) -> None:
    def upload() -> None:
        with BlobWriter(engine) as writer:
            writer.write(b"x" * 2_500_000)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        upload()
    assert count_rows(engine, Blob) == count_rows(engine, BlobChunk) == 0


def test_old_unreferenced_blob_is_collected(
    engine: Engine, context: WriteContext, tmp_path: Path
) -> None:
    save_checkpoint(context, tmp_path, 5)
    orphan, young = store(engine, b"orphan" * 400_000), store(engine, b"young")
    with transaction(engine) as session:
        session.execute(update(Blob).where(Blob.id != young.id).values(created_at=1000))
    assert blobs.collect_garbage(engine) == 1
    with transaction(engine) as session:
        assert session.get(Blob, orphan.id) is None
        assert session.scalar(select(func.count()).where(BlobChunk.blob_id == orphan.id)) == 0
    assert blobs.is_intact(engine, young)
    assert count_rows(engine, StoredFile) == 2


def test_chunks_of_a_killed_writer_are_collected_later(engine: Engine) -> None:
    writer = BlobWriter(engine)
    writer.__enter__()
    writer.write(b"x" * 2_500_000)  # and the process is gone
    assert blobs.collect_garbage(engine) == 0
    with transaction(engine) as session:
        session.execute(update(Blob).values(created_at=1000))
    assert blobs.collect_garbage(engine) == 1
    assert count_rows(engine, BlobChunk) == 0


def test_blob_that_is_stored_again_counts_as_new(engine: Engine) -> None:
    blob = store(engine, b"again")
    age(engine, blob)
    assert store(engine, b"again").id == blob.id
    assert blobs.collect_garbage(engine) == 0
    assert blobs.is_intact(engine, blob)


def test_concurrent_writers_of_the_same_bytes_share_one_blob(engine: Engine) -> None:
    with BlobWriter(engine) as one, BlobWriter(engine) as other:
        one.write(b"twins")
        other.write(b"twins")
        assert one.finish() == other.finish()
    assert count_rows(engine, Blob) == 1
