"""Store checked pairs as a dataset, and count them against the tenant's storage quota."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import log as audit_log
from app.audit.log import Actor
from app.core.database import new_id, reader, transaction
from app.core.settings import Settings
from app.datasets.canonical import DatasetSummary
from app.datasets.containers import FileFormat
from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader, ReadLimits
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.several_files import FileLimits, FileRows, SourceFile
from app.models import Dataset
from app.storage.blobs import BlobWriter, StoredBlob
from app.storage.quota import check_storage_quota

#: Limit on canonical JSONL as a multiple of the upload limit: compressed uploads grow.
EXPANSION = 4
#: Seconds between two calls of ``keep_going`` during a conversion.
PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Sent:
    """Metadata of an upload: ``sha256`` and ``size`` (bytes) are those of the bytes as sent."""

    name: str | None
    file_format: FileFormat
    options: ReadOptions
    sha256: str
    size: int
    #: Additional entries of the summary.
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    """Callbacks of a conversion."""

    #: Called every few seconds. An exception aborts the conversion.
    keep_going: Callable[[], None]
    #: Called with the dataset's id in the transaction that stores it, before the quota check.
    close: Callable[[Session, str], None] = lambda _session, _id: None


def read_limits(settings: Settings) -> ReadLimits:
    """Return the limits for one upload from the settings."""
    return ReadLimits(
        EXPANSION * settings.max_upload_bytes,
        settings.max_rows,
        max_skipped_share=settings.max_skipped_share,
    )


def store_files(
    engine: Engine,
    settings: Settings,
    actor: Actor,
    sent: Sent,
    files: Sequence[SourceFile],
    steps: Steps,
) -> tuple[Dataset, bool]:
    """Check several files and store them as one dataset; return it and whether it is new.

    Nothing is stored if an error is raised.

    Raises:
        InvalidDatasetError: names the first bad lines and their files.
        QuotaError, StorageFullError
    """
    limits = read_limits(settings)
    rows = FileRows(files, FileLimits(limits.max_bytes, limits.max_rows), sent.options, settings)
    data_reader = DatasetReader(limits, sent.options)
    asked_at, size = time.monotonic(), 0
    with BlobWriter(engine) as writer:
        try:
            for block in data_reader.read_rows(rows, is_untyped=rows.is_untyped):
                writer.write(block)
                size += len(block)
                if time.monotonic() - asked_at > PAUSE_SECONDS:
                    asked_at = time.monotonic()
                    steps.keep_going()
                    with transaction(reader(engine)) as session:
                        check_storage_quota(session, settings, actor.tenant_id, size)
        except InvalidDatasetError as error:
            raise rows.located(error) from None
        blob = writer.finish()
    dataset = make_row(actor.tenant_id, sent, blob, data_reader.summary)
    return publish(engine, settings, actor, dataset, steps.close)


def make_row(tenant_id: str, sent: Sent, blob: StoredBlob, summary: DatasetSummary) -> Dataset:
    """Create the database row of a new dataset."""
    return Dataset(
        id=new_id("ds"),
        tenant_id=tenant_id,
        name=sent.name,
        source_format=sent.file_format,
        upload_identity=sent.options.identity(sent.sha256),
        upload_bytes=sent.size,
        blob_id=blob.id,
        sha256=blob.sha256,
        bytes=blob.size,
        pair_count=summary.pair_count,
        summary=summary.model_dump(mode="json") | {"upload_sha256": sent.sha256} | sent.facts,
    )


def publish(
    engine: Engine,
    settings: Settings,
    actor: Actor,
    dataset: Dataset,
    close: Callable[[Session, str], None] = lambda _session, _id: None,
) -> tuple[Dataset, bool]:
    """Store a dataset unless the tenant has it already; return the stored one, and if it is new.

    Raises:
        QuotaError
    """
    for _ in range(2):
        try:
            with transaction(engine) as session:
                if known := _find_upload(session, dataset):
                    close(session, known.id)
                    return known, False
                close(session, dataset.id)
                check_storage_quota(session, settings, actor.tenant_id, dataset.bytes)
                session.add(dataset)
                session.flush()
                session.refresh(dataset)
                audit_log.record(session, actor, "dataset.upload", dataset.id)
            return dataset, True
        except IntegrityError:  # a concurrent request stored the same upload: find it and return it
            with transaction(reader(engine)) as session:
                if not _find_upload(session, dataset):
                    raise
    raise AssertionError("a dataset was found and then deleted, twice")


def _find_upload(session: Session, dataset: Dataset) -> Dataset | None:
    return session.scalar(
        select(Dataset).where(
            Dataset.tenant_id == dataset.tenant_id,
            Dataset.upload_identity == dataset.upload_identity,
        )
    )
