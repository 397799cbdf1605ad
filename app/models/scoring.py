"""The table of scorers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, now_ms


class Scorer(Base):
    """A scorer process and where it listens. ``queue`` names the service that it belongs to."""

    __tablename__ = "scorers"

    id: Mapped[str] = mapped_column(String(160), primary_key=True)
    queue: Mapped[str] = mapped_column(String(64), index=True)
    url: Mapped[str] = mapped_column(String(300))
    state: Mapped[str] = mapped_column(String(16), default="ready")
    resident: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    versions: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    started_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    seen_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
