"""Usage of tenants per day.

Usage is added in the transaction that causes it and never recomputed, so that it remains when jobs
and datasets are deleted.
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.core.database import now_ms, reader, transaction
from app.core.upsert import add_to, upsert
from app.models import (
    Adapter,
    Checkpoint,
    Dataset,
    DatasetUpload,
    DatasetUploadPart,
    Evaluation,
    Job,
    StoredFile,
    UsageDay,
)

DAY_MS = 86_400_000


def add(session: Session, tenant_id: str, *, device_ms: int = 0, scored_tokens: int = 0) -> None:
    """Add to today's usage of a tenant."""
    row = {
        "tenant_id": tenant_id,
        "day": _today(session),
        "device_ms": device_ms,
        "stored_bytes": 0,
        "scored_tokens": scored_tokens,
    }
    add_to(session, UsageDay, row, ("device_ms", "scored_tokens"))


def record_stored_bytes(engine: Engine) -> None:
    """Record how many bytes each tenant stores now. The last value of a day is kept."""
    with transaction(reader(engine)) as session:
        stored = _stored_bytes(session)
        today = _today(session)
        for tenant_id in session.scalars(
            select(UsageDay.tenant_id).where(UsageDay.day == today, UsageDay.stored_bytes > 0)
        ):
            stored.setdefault(tenant_id, 0)  # tenants that have deleted everything since
    with transaction(engine) as session:
        rows = [
            {
                "tenant_id": tenant_id,
                "day": today,
                "device_ms": 0,
                "stored_bytes": size,
                "scored_tokens": 0,
            }
            for tenant_id, size in sorted(stored.items())
        ]
        upsert(session, UsageDay, rows, update=("stored_bytes",))


def list_days(session: Session, tenant_id: str, days: int) -> list[UsageDay]:
    """Return the days with any usage among the last ``days`` days, newest first."""
    first = _today(session) - days
    return list(
        session.scalars(
            select(UsageDay)
            .where(UsageDay.tenant_id == tenant_id, UsageDay.day > first)
            .order_by(UsageDay.day.desc())
        )
    )


def _today(session: Session) -> int:
    return (session.scalar(select(now_ms())) or 0) // DAY_MS


def _stored_bytes(session: Session) -> Counter[str]:
    """Return the bytes of datasets, uploads, adapters, scores and checkpoints of each tenant."""
    parts = DatasetUploadPart
    statements = (
        select(Dataset.tenant_id, func.sum(Dataset.bytes)).group_by(Dataset.tenant_id),
        select(Adapter.tenant_id, func.sum(Adapter.bytes)).group_by(Adapter.tenant_id),
        select(Evaluation.tenant_id, func.sum(Evaluation.bytes)).group_by(Evaluation.tenant_id),
        select(Job.tenant_id, func.sum(StoredFile.size))  # of score batches
        .join(StoredFile, StoredFile.owner_id == Job.id)
        .group_by(Job.tenant_id),
        select(Job.tenant_id, func.sum(Checkpoint.bytes))
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .group_by(Job.tenant_id),
        select(DatasetUpload.tenant_id, func.sum(parts.bytes))
        .join(parts, parts.upload_id == DatasetUpload.id)
        .group_by(DatasetUpload.tenant_id),
    )
    stored: Counter[str] = Counter()
    for statement in statements:
        for tenant_id, size in session.execute(statement):
            stored[tenant_id] += int(size)
    return stored
