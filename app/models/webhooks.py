"""Tables of webhooks and of the messages to send (outbox)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base, now_ms


class Webhook(Base):
    """A URL that receives messages about a tenant's jobs.

    The secrets are stored readable, because each message is signed with them.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_list", "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON)
    secret: Mapped[str] = mapped_column(String(64))
    # The secret before the last rotation. Until it expires, messages are signed with it as well.
    old_secret: Mapped[str | None] = mapped_column(String(64))
    old_secret_expires_at: Mapped[int | None] = mapped_column(BigInteger)
    # Time of the first failure since the last success.
    failing_since: Mapped[int | None] = mapped_column(BigInteger)
    disabled_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class WebhookDelivery(Base):
    """A message to one webhook, written in the transaction of the event that it reports.

    ``attempts`` is a fencing token: only the process that incremented it to the current value may
    record the outcome of that attempt.
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
    # Id of the message: the same in every attempt and for every webhook that receives it.
    event_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    # While a process is sending the message: when another may take over.
    next_attempt_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    last_attempt_at: Mapped[int | None] = mapped_column(BigInteger)
    response_status: Mapped[int | None]
    response_body: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
