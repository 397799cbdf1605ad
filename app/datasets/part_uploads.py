"""Uploads in numbered parts: open them and store parts. part_finishing.py converts them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Engine, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.audit import log as audit_log
from app.audit.log import Actor
from app.core.database import new_id, newest_first, now_ms, reader, transaction
from app.core.errors import ConflictError, NotFoundError, QuotaError, TooLargeError
from app.core.settings import Settings
from app.datasets.announced import Announced
from app.datasets.containers import peek
from app.datasets.options import ReadOptions
from app.models import ApiKey, DatasetUpload, DatasetUploadPart
from app.storage.blobs import BlobWriter
from app.storage.quota import check_storage_quota

MAX_PARTS = 1000
#: An upload expires a day after its last change.
LIFETIME_MS = 86_400_000
OPTIONS = TypeAdapter(ReadOptions)


class UploadNotFoundError(NotFoundError):
    """No upload of this tenant has this id, or it expired."""

    code = "upload_not_found"
    title = "No such upload"
    next_step = "Open a new upload: `POST /v1/datasets/uploads`. Unfinished ones expire in a day."


class UploadNotOpenError(ConflictError):
    """The upload is being finished, or has become a dataset."""

    code = "upload_not_open"
    title = "The upload is not open"
    next_step = "Read the upload: `dataset_id` names the dataset once it is finished."


@dataclass(frozen=True)
class UploadState:
    """An upload with its parts in the order of their numbers."""

    upload: DatasetUpload
    parts: list[DatasetUploadPart]


@dataclass(frozen=True)
class PartBody:
    """A part in transfer; ``chunks`` are its bytes."""

    upload_id: str
    number: int
    announced: Announced
    chunks: Iterable[bytes]


def open_upload(
    session: Session, settings: Settings, actor: Actor, name: str | None, options: ReadOptions
) -> DatasetUpload:
    """Open an upload.

    Raises:
        QuotaError: the key has too many open uploads, or the tenant's storage quota is used up.
    """
    # The lock serialises requests of one key, so that each counts the uploads of the others.
    session.execute(select(ApiKey.id).where(ApiKey.id == actor.key_id).with_for_update())
    count = session.scalar(
        select(func.count()).where(
            DatasetUpload.tenant_id == actor.tenant_id,
            DatasetUpload.key_id == actor.key_id,
            DatasetUpload.status != "finished",
            _is_fresh(),
        )
    )
    if (count or 0) >= settings.max_open_uploads:
        raise QuotaError(
            f"{count} uploads of this key are open, the limit is {settings.max_open_uploads}.",
            hint="Finish or delete one of them: GET /v1/datasets/uploads lists them.",
        )
    check_storage_quota(session, settings, actor.tenant_id, 0)
    upload = DatasetUpload(
        id=new_id("up"),
        tenant_id=actor.tenant_id,
        key_id=actor.key_id,
        name=name,
        options=OPTIONS.dump_python(options, mode="json"),
        expires_at=now_ms() + LIFETIME_MS,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    audit_log.record(session, actor, "upload.create", upload.id)
    return upload


def get(session: Session, tenant_id: str, upload_id: str) -> UploadState:
    """Return an upload of this tenant with its parts.

    Raises:
        UploadNotFoundError: there is no such upload, or it has expired.
    """
    upload = session.scalar(
        select(DatasetUpload).where(
            DatasetUpload.id == upload_id, DatasetUpload.tenant_id == tenant_id, _is_fresh()
        )
    )
    if upload is None:
        raise UploadNotFoundError(f"There is no upload {upload_id}.")
    parts = session.scalars(
        select(DatasetUploadPart)
        .where(DatasetUploadPart.upload_id == upload_id)
        .order_by(DatasetUploadPart.number)
    )
    return UploadState(upload, list(parts))


def list_page(
    session: Session, tenant_id: str, limit: int, after: str | None
) -> list[DatasetUpload]:
    """Return up to ``limit + 1`` uploads, newest first."""
    statement = select(DatasetUpload).where(DatasetUpload.tenant_id == tenant_id, _is_fresh())
    return list(session.scalars(newest_first(statement, DatasetUpload.id, limit, after)))


def store_part(
    engine: Engine, settings: Settings, actor: Actor, body: PartBody
) -> tuple[DatasetUploadPart, bool]:
    """Store a part, and replace an earlier one with this number.

    Return the part and whether its bytes are new.

    Raises:
        UploadNotFoundError, UploadNotOpenError, TooLargeError, QuotaError, StorageFullError
        InvalidDatasetError, UnsupportedMediaError: the part has an unsupported file type.
    """
    with transaction(reader(engine)) as session:
        upload = get(session, actor.tenant_id, body.upload_id).upload
        if upload.status == "finished":
            raise _not_open(upload)
        check_storage_quota(session, settings, actor.tenant_id, 0)
    with BlobWriter(engine) as writer:
        head, chunks = peek(_at_most(body.chunks, settings.max_upload_bytes))
        file_format = body.announced.settle(head, chunks)
        for chunk in chunks:
            writer.write(chunk)
        blob = writer.finish()
    part = DatasetUploadPart(
        upload_id=body.upload_id,
        number=body.number,
        blob_id=blob.id,
        sha256=blob.sha256,
        bytes=blob.size,
        format=file_format,
    )
    with transaction(engine) as session:
        touch(session, actor.tenant_id, body.upload_id)
        return _put_part(session, settings, actor, body.upload_id, part)


def remove(session: Session, tenant_id: str, upload_id: str) -> None:
    """Delete an upload with its parts; keep the dataset of a finished upload.

    Raises:
        UploadNotFoundError, UploadNotOpenError
    """
    upload = get(session, tenant_id, upload_id).upload
    gone = session.scalar(
        delete(DatasetUpload)
        .where(DatasetUpload.id == upload_id, or_(_is_open(), DatasetUpload.status == "finished"))
        .returning(DatasetUpload.id)
    )
    if gone is None:
        raise _not_open(upload)


def drop_expired(engine: Engine, limit: int) -> int:
    """Delete up to ``limit`` expired uploads with their parts; return their number."""
    with transaction(engine) as session:
        expired = select(DatasetUpload.id).where(~_is_fresh()).limit(limit)
        gone = session.scalars(
            delete(DatasetUpload)
            .where(DatasetUpload.id.in_(expired.scalar_subquery()), ~_is_fresh())
            .returning(DatasetUpload.id)
        )
        return len(gone.all())


def touch(session: Session, tenant_id: str, upload_id: str) -> None:
    """Lock an open upload until the end of the transaction, and let it expire in a day.

    Raises:
        UploadNotFoundError, UploadNotOpenError
    """
    touched = session.scalar(
        update(DatasetUpload)
        .where(
            DatasetUpload.id == upload_id,
            DatasetUpload.tenant_id == tenant_id,
            _is_fresh(),
            _is_open(),
        )
        .values(expires_at=now_ms() + LIFETIME_MS, status="open", finish_id=None)
        .returning(DatasetUpload.id)
    )
    if touched is None:
        raise _not_open(get(session, tenant_id, upload_id).upload)


def _is_fresh() -> ColumnElement[bool]:
    return DatasetUpload.expires_at > now_ms()


def _is_open() -> ColumnElement[bool]:
    """Match open uploads, and those whose finishing process lost its lease."""
    return or_(
        DatasetUpload.status == "open",
        (DatasetUpload.status == "finishing") & (DatasetUpload.finish_expires_at < now_ms()),
    )


def _not_open(upload: DatasetUpload) -> UploadNotOpenError:
    return UploadNotOpenError(f"The upload {upload.id} is {upload.status}.")


def _put_part(
    session: Session, settings: Settings, actor: Actor, upload_id: str, part: DatasetUploadPart
) -> tuple[DatasetUploadPart, bool]:
    """Add or replace a part of an upload that this transaction has locked."""
    known = session.get(DatasetUploadPart, (upload_id, part.number))
    if known is not None and (known.sha256, known.format) == (part.sha256, part.format):
        return known, False
    further = part.bytes - (known.bytes if known else 0)
    total = session.scalar(
        select(func.coalesce(func.sum(DatasetUploadPart.bytes), 0)).where(
            DatasetUploadPart.upload_id == upload_id
        )
    )
    if (total or 0) + further > settings.max_parts_bytes:
        raise TooLargeError(
            f"The parts would hold more than {settings.max_parts_bytes} bytes.",
            hint="Compress the parts, or make several datasets of them.",
        )
    check_storage_quota(session, settings, actor.tenant_id, max(further, 0))
    part = session.merge(part)
    session.flush()
    session.refresh(part)
    audit_log.record(session, actor, "upload.part", upload_id)
    return part, True


def _at_most(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(
                f"The part is larger than {max_bytes} bytes.", hint="Send it as several parts."
            )
        yield chunk
