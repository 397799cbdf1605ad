"""The table of evaluations."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, now_ms


class Evaluation(Base):
    """An evaluation of adapters on a dataset; its job has the state, the spec and the result.

    The id is that of the job with another prefix. Files of scores are ``stored_files`` of the id.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        Index("ix_evaluations_list", "tenant_id", "id"),
        # How often a held-out set was used.
        Index("ix_evaluations_uses", "tenant_id", "dataset_sha256"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    dataset_sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
