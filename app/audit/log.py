"""Who did what: one row an act, in the transaction of the act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.database import new_id
from app.models import AuditRecord

Action = Literal[
    "adapter.delete",
    "adapter.download",
    "adapter.merge",
    "api_key.create",
    "api_key.revoke",
    "dataset.delete",
    "dataset.upload",
    "job.cancel",
    "job.delete",
    "job.pause",
    "job.resume",
    "job.submit",
    "job.update",
    "webhook.create",
    "webhook.delete",
    "webhook.disable",
    "webhook.rotate_secret",
    "webhook.test",
]


@dataclass(frozen=True)
class Actor:
    """Who acts for a tenant; without a key it is the service itself or its operator."""

    tenant_id: str
    key_id: str | None = None
    request_id: str | None = None
    client: str | None = None


def record(session: Session, actor: Actor, action: Action, object_id: str) -> None:
    """Write down an act; it counts when the act's transaction does."""
    session.add(
        AuditRecord(
            id=new_id("audit"),
            tenant_id=actor.tenant_id,
            key_id=actor.key_id,
            action=action,
            object_id=object_id,
            request_id=actor.request_id,
            client=actor.client,
        )
    )


def list_page(session: Session, tenant_id: str, limit: int, after: str | None) -> list[AuditRecord]:
    """Up to ``limit + 1`` acts, newest first."""
    statement = select(AuditRecord).where(AuditRecord.tenant_id == tenant_id)
    if after is not None:
        statement = statement.where(AuditRecord.id < after)
    return list(session.scalars(statement.order_by(AuditRecord.id.desc()).limit(limit + 1)))
