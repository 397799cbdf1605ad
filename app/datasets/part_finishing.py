"""Convert the parts of a finished upload to one dataset."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

from sqlalchemy import ColumnElement, Engine, delete, select, update
from sqlalchemy.orm import Session

from app.audit.log import Actor
from app.core.database import new_id, now_ms, transaction
from app.core.errors import ConflictError
from app.core.settings import Settings
from app.datasets import part_uploads
from app.datasets.containers import FileFormat
from app.datasets.part_uploads import LIFETIME_MS, OPTIONS, UploadNotOpenError, UploadState
from app.datasets.publishing import Sent, Steps, store_files
from app.datasets.several_files import SourceFile, files_digest
from app.models import Dataset, DatasetUpload, DatasetUploadPart
from app.storage.blobs import read_range

#: Lease of the process that converts the parts, which renews it every few seconds. Another request
#: can finish the upload once the lease has expired.
FINISH_MS = 300_000


class UploadIncompleteError(ConflictError):
    """Parts are missing between the first and the last."""

    code = "upload_incomplete"
    title = "The upload is not complete"
    next_step = "Send the missing parts, then finish the upload again."


def finish(
    engine: Engine, settings: Settings, actor: Actor, upload_id: str, part_count: int | None
) -> tuple[Dataset, bool]:
    """Convert all parts, in the order of their numbers, to one dataset.

    Return the dataset and whether it is new. If the pairs are rejected, the upload stays open, so
    that the client can replace the wrong parts. A repeated call returns the same dataset.

    Raises:
        UploadNotFoundError, UploadNotOpenError, UploadIncompleteError
        InvalidDatasetError, QuotaError, StorageFullError
    """
    finish_id = new_id("fin")
    is_ours = _is_held(upload_id, finish_id)
    with transaction(engine) as session:
        if known := _find_dataset(session, actor.tenant_id, upload_id):
            return known, False
        part_uploads.touch(session, actor.tenant_id, upload_id)
        state = part_uploads.get(session, actor.tenant_id, upload_id)
        _check_complete(state, part_count)
        state.upload.status, state.upload.finish_id = "finishing", finish_id
        state.upload.finish_expires_at = now_ms() + FINISH_MS
    steps = Steps(partial(_renew, engine, is_ours), partial(_close, is_ours))
    files = [_source(engine, part) for part in state.parts]
    try:
        return store_files(engine, settings, actor, _sent(state, files), files, steps)
    finally:
        with transaction(engine) as session:  # changes nothing if the upload is finished
            session.execute(
                update(DatasetUpload).where(is_ours).values(status="open", finish_id=None)
            )


def _find_dataset(session: Session, tenant_id: str, upload_id: str) -> Dataset | None:
    return session.scalar(
        select(Dataset)
        .join(DatasetUpload, DatasetUpload.dataset_id == Dataset.id)
        .where(DatasetUpload.id == upload_id, DatasetUpload.tenant_id == tenant_id)
    )


def _is_held(upload_id: str, finish_id: str) -> ColumnElement[bool]:
    return (
        (DatasetUpload.id == upload_id)
        & (DatasetUpload.status == "finishing")
        & (DatasetUpload.finish_id == finish_id)
    )


def _check_complete(state: UploadState, part_count: int | None) -> None:
    numbers = [part.number for part in state.parts]
    wanted = part_count or max(numbers, default=1)
    missing = sorted(set(range(1, wanted + 1)) - set(numbers))
    if missing:
        named = ", ".join(map(str, missing[:10]))
        raise UploadIncompleteError(f"{len(missing)} of {wanted} parts are missing: {named}.")
    if len(numbers) > wanted:
        raise UploadIncompleteError(
            f"The upload has {len(numbers)} parts, not {wanted}.",
            hint="Set `parts` to the number of parts, or open a new upload.",
        )


def _source(engine: Engine, part: DatasetUploadPart) -> SourceFile:
    def read() -> Iterable[bytes]:
        return read_range(engine, part.blob_id, 0, part.bytes)

    file_format = cast(FileFormat, part.format)
    return SourceFile(f"part {part.number}", file_format, part.sha256, part.bytes, read)


def _sent(state: UploadState, files: list[SourceFile]) -> Sent:
    return Sent(
        state.upload.name,
        files[0].file_format,
        OPTIONS.validate_python(state.upload.options),
        files_digest(files),
        sum(file.size for file in files),
    )


def _renew(engine: Engine, is_ours: ColumnElement[bool]) -> None:
    with transaction(engine) as session:
        _update_held(session, is_ours, finish_expires_at=now_ms() + FINISH_MS)


def _close(is_ours: ColumnElement[bool], session: Session, dataset_id: str) -> None:
    upload_id = _update_held(
        session,
        is_ours,
        status="finished",
        dataset_id=dataset_id,
        finish_id=None,
        expires_at=now_ms() + LIFETIME_MS,
    )
    session.execute(delete(DatasetUploadPart).where(DatasetUploadPart.upload_id == upload_id))


def _update_held(session: Session, is_ours: ColumnElement[bool], **values: object) -> str:
    changed: str | None = session.scalar(
        update(DatasetUpload).where(is_ours).values(**values).returning(DatasetUpload.id)
    )
    if changed is None:
        raise UploadNotOpenError("Another request is finishing this upload.")
    return changed
