"""Webhooks and the outbox of their messages."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, now_ms


class Webhook(Base):
    """An address that a tenant wants told about its jobs.

    The secrets are readable: each message is signed with them, so a hash would not do.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_list", "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON)
    secret: Mapped[str] = mapped_column(String(64))
    # The one before; messages carry a signature of it as well until it expires.
    old_secret: Mapped[str | None] = mapped_column(String(64))
    old_secret_expires_at: Mapped[int | None] = mapped_column(BigInteger)
    # The first failure since the last success.
    failing_since: Mapped[int | None] = mapped_column(BigInteger)
    disabled_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class WebhookDelivery(Base):
    """A message to one webhook, written in the transaction of what it tells about.

    ``attempts`` fences: only who raised it to its present value may write how that attempt ended.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        Index(
            "ix_webhook_deliveries_due",
            "next_attempt_at",
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
        ),
    )

    webhook_id: Mapped[str] = mapped_column(
        ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True
    )
    # The message's id: the same at every attempt and for every webhook that gets it.
    event_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    # While somebody sends it: when others may, because that one must have died.
    next_attempt_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    last_attempt_at: Mapped[int | None] = mapped_column(BigInteger)
    response_status: Mapped[int | None]
    response_body: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
