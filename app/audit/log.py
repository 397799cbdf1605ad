"""The audit log: one row per action, written in the transaction of the action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.database import new_id, newest_first
from app.models import AuditRecord

Action = Literal[
    "adapter.delete",
    "adapter.download",
    "adapter.merge",
    "adapter.push",
    "api_key.create",
    "api_key.revoke",
    "dataset.delete",
    "dataset.import",
    "dataset.upload",
    "evaluation.cancel",
    "evaluation.create",
    "evaluation.delete",
    "import.cancel",
    "job.cancel",
    "job.delete",
    "job.pause",
    "job.resume",
    "job.submit",
    "job.update",
    "score_batch.cancel",
    "score_batch.create",
    "score_batch.delete",
    "upload.create",
    "upload.delete",
    "upload.part",
    "webhook.create",
    "webhook.delete",
    "webhook.disable",
    "webhook.rotate_secret",
    "webhook.test",
]


@dataclass(frozen=True)
class Actor:
    """The actor of an action. Without a key the actor is the service or its operator."""

    tenant_id: str
    key_id: str | None = None
    request_id: str | None = None
    client: str | None = None


def record(session: Session, actor: Actor, action: Action, object_id: str) -> None:
    """Add an entry to the log; it is committed together with the action."""
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
    """Return up to ``limit + 1`` entries, newest first."""
    statement = select(AuditRecord).where(AuditRecord.tenant_id == tenant_id)
    return list(session.scalars(newest_first(statement, AuditRecord.id, limit, after)))
