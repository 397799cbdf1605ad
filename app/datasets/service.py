"""Store uploads as datasets; find, preview and delete datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, delete, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit.log import Actor
from app.core.database import newest_first, reader, transaction
from app.core.errors import ConflictError, NotFoundError, TooLargeError
from app.core.settings import Settings
from app.datasets.announced import Announced
from app.datasets.containers import FileFormat, is_zstd, peek
from app.datasets.options import ReadOptions
from app.datasets.publishing import Sent, make_row, publish, read_limits
from app.datasets.reading import DatasetReader
from app.datasets.spooling import spooled
from app.domain.lifecycle import TERMINAL
from app.models import Dataset, Job, JobEvalDataset
from app.storage.blobs import BlobWriter, StreamDigest, read_range
from app.storage.quota import check_storage_quota


class DatasetNotFoundError(NotFoundError):
    """No dataset of this tenant has this id."""

    code = "dataset_not_found"
    title = "No such dataset"


class DatasetInUseError(ConflictError):
    """An unfinished job uses the dataset."""

    code = "dataset_in_use"
    title = "The dataset is in use"
    next_step = "Wait for the jobs that use it, or cancel them."


@dataclass(frozen=True)
class Upload:
    """A file in transfer, and the options for reading it."""

    name: str | None
    announced: Announced
    chunks: Iterable[bytes]
    options: ReadOptions = field(default_factory=ReadOptions)


def store(engine: Engine, settings: Settings, actor: Actor, upload: Upload) -> tuple[Dataset, bool]:
    """Check an upload while it streams and store it; return the dataset and whether it is new.

    The same bytes with the same options give the existing dataset. Nothing is stored if an error is
    raised.

    Raises:
        InvalidDatasetError: names the first bad lines.
        UnsupportedMediaError: neither the request nor the file names the format.
        TooLargeError, QuotaError
    """
    tenant_id = actor.tenant_id
    with transaction(reader(engine)) as session:
        check_storage_quota(session, settings, tenant_id, 0)
    data_reader = DatasetReader(read_limits(settings), upload.options)
    with StreamDigest() as digest, BlobWriter(engine) as writer:
        counted = _CountedChunks(upload.chunks, settings.max_upload_bytes, digest)
        head, chunks = peek(counted)
        file_format = upload.announced.settle(head, chunks)
        if file_format == "parquet" or file_format == "arrow" or is_zstd(head):
            blocks = _spooled(data_reader, file_format, chunks, settings)
        else:
            blocks = data_reader.read(chunks, file_format)
        for block in blocks:
            writer.write(block)
        for _ in chunks:  # the digest covers the whole file, also bytes that the reader skipped
            pass
        blob = writer.finish()
        sent = Sent(upload.name, file_format, upload.options, digest.hexdigest(), counted.size)
    dataset = make_row(tenant_id, sent, blob, data_reader.summary)
    return publish(engine, settings, actor, dataset)


def get(session: Session, tenant_id: str, dataset_id: str) -> Dataset:
    """Return a dataset of this tenant.

    Raises:
        DatasetNotFoundError
    """
    dataset = session.scalar(
        select(Dataset).where(Dataset.id == dataset_id, Dataset.tenant_id == tenant_id)
    )
    if dataset is None:
        raise DatasetNotFoundError(f"There is no dataset {dataset_id}.")
    return dataset


def get_by_content(session: Session, tenant_id: str, sha256: str) -> Dataset:
    """Return the newest dataset with these rows of this tenant, or raise DatasetNotFoundError."""
    dataset = session.scalar(
        select(Dataset)
        .where(Dataset.tenant_id == tenant_id, Dataset.sha256 == sha256)
        .order_by(Dataset.id.desc())
        .limit(1)
    )
    if dataset is None:
        raise DatasetNotFoundError(f"There is no dataset whose rows have the sha256 {sha256}.")
    return dataset


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[Dataset]:
    """Return up to ``limit + 1`` datasets, newest first."""
    statement = select(Dataset).where(Dataset.tenant_id == tenant_id)
    return list(session.scalars(newest_first(statement, Dataset.id, limit, after)))


def remove(session: Session, tenant_id: str, dataset_id: str) -> None:
    """Delete a dataset. The spec of finished jobs still names it.

    Raises:
        DatasetNotFoundError, DatasetInUseError
    """
    get(session, tenant_id, dataset_id)
    for column in (Job.train_dataset_id, Job.eval_dataset_id):
        session.execute(
            update(Job)
            .where(column == dataset_id, Job.status.in_(TERMINAL))
            .values({column: None})
            .execution_options(synchronize_session=False)
        )
    session.execute(
        delete(JobEvalDataset)
        .where(
            JobEvalDataset.dataset_id == dataset_id,
            JobEvalDataset.job_id.in_(select(Job.id).where(Job.status.in_(TERMINAL))),
        )
        .execution_options(synchronize_session=False)
    )
    is_used = or_(
        exists().where((Job.train_dataset_id == dataset_id) | (Job.eval_dataset_id == dataset_id)),
        exists().where(JobEvalDataset.dataset_id == dataset_id),
    )
    try:
        gone = session.scalar(
            delete(Dataset)
            .where(Dataset.id == dataset_id, Dataset.tenant_id == tenant_id, ~is_used)
            .returning(Dataset.id)
        )
    except IntegrityError:  # a job was submitted concurrently
        gone = None
    if gone is None:
        raise DatasetInUseError(
            f"A job that is not finished uses {dataset_id}.",
            hint="Cancel the job or wait for its end.",
        )


def preview(engine: Engine, dataset: Dataset, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` stored rows."""
    pairs: list[dict[str, Any]] = []
    for line in _lines(read_range(engine, dataset.blob_id, 0, dataset.bytes)):
        pairs.append(json.loads(line))
        if len(pairs) == count:
            break
    return pairs


class _CountedChunks:
    """Iterator that hashes and counts chunks; another reader can continue where one stopped."""

    def __init__(self, chunks: Iterable[bytes], max_bytes: int, digest: StreamDigest) -> None:
        self._chunks = iter(chunks)
        self._max_bytes = max_bytes
        self._digest = digest
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise TooLargeError(
                f"The file is larger than {self._max_bytes} bytes.",
                hint="Compress it with gzip, or split it into several datasets.",
            )
        self._digest.update(chunk)
        return chunk


def _spooled(
    data_reader: DatasetReader,
    file_format: FileFormat,
    chunks: Iterator[bytes],
    settings: Settings,
) -> Iterator[bytes]:
    """Yield canonical JSONL of a columnar or Zstandard file, which a child reads from disk."""
    with spooled(chunks, settings) as file:
        if file_format == "parquet" or file_format == "arrow":
            yield from data_reader.read_columnar(file)
        else:
            yield from data_reader.read_zstd(file, file_format)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
