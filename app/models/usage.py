"""The table of the tenants' usage."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class UsageDay(Base):
    """Usage of one tenant on one day (UTC); ``day`` counts days since 1970-01-01."""

    __tablename__ = "usage_days"

    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True)
    device_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    scored_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
