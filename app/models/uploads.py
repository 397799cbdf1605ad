"""Tables of uploads that consist of several files."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, now_ms


class DatasetUpload(Base):
    """An upload in numbered parts. It expires a day after its last change.

    The process that converts the parts holds ``finish_id`` until ``finish_expires_at``.
    """

    __tablename__ = "dataset_uploads"
    __table_args__ = (
        CheckConstraint("status IN ('open', 'finishing', 'finished')", name="status"),
        Index("ix_dataset_uploads_list", "tenant_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(String(128))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default="open")
    finish_id: Mapped[str | None] = mapped_column(String(40))
    finish_expires_at: Mapped[int | None] = mapped_column(BigInteger)
    dataset_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)


class DatasetUploadPart(Base):
    """One part as it was sent. Parts are deleted when their upload is finished."""

    __tablename__ = "dataset_upload_parts"

    upload_id: Mapped[str] = mapped_column(
        ForeignKey("dataset_uploads.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
