"""Tables of blobs and of the datasets, base models and adapters that they belong to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, deferred, mapped_column

from app.core.database import Base, now_ms


class Blob(Base):
    """Content-addressed bytes. A ``ready`` blob is complete and has the hash ``sha256``."""

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("state IN ('uploading', 'ready')", name="state"),
        # At most one complete blob per content.
        Index(
            "ux_blobs_sha256",
            "sha256",
            unique=True,
            sqlite_where=text("state = 'ready'"),
            postgresql_where=text("state = 'ready'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default="uploading")
    sha256: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class BlobChunk(Base):
    """1 MiB of a blob; the last chunk may be shorter."""

    __tablename__ = "blob_chunks"

    blob_id: Mapped[str] = mapped_column(
        ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True
    )
    seq: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = deferred(mapped_column(LargeBinary, nullable=False))


class StoredFile(Base):
    """A file of a checkpoint or an adapter."""

    __tablename__ = "stored_files"

    owner_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class Dataset(Base):
    """Validated preference pairs; the blob holds them as canonical JSONL."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("tenant_id", "upload_sha256"),
        Index("ix_datasets_list", "tenant_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    name: Mapped[str | None] = mapped_column(String(128))
    source_format: Mapped[str] = mapped_column(String(16))
    #: Digest of the uploaded bytes and of how they were read: the same bytes with other options are
    #: another dataset. ``summary`` has the digest of the bytes alone.
    upload_identity: Mapped[str] = mapped_column("upload_sha256", String(64))
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    pair_count: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class BaseModelRecord(Base):
    """The result of inspecting a base model. ``key`` is a hash over its catalogue entry."""

    __tablename__ = "base_model_facts"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    base_model: Mapped[str] = mapped_column(String(64), index=True)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class Adapter(Base):
    """The adapter of a succeeded job; immutable."""

    __tablename__ = "adapters"
    __table_args__ = (Index("ix_adapters_list", "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    base_model: Mapped[str] = mapped_column(String(64))
    revision: Mapped[str | None] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    archive_sha256: Mapped[str] = mapped_column(String(64))
    archive_bytes: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    certificate: Mapped[dict[str, Any]] = mapped_column(JSON)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
