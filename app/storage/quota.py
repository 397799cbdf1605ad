"""The storage quota of a tenant: datasets, uploads, adapters, scores and checkpoints."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import QuotaError
from app.core.settings import Settings
from app.models import (
    Adapter,
    Checkpoint,
    Dataset,
    DatasetUpload,
    DatasetUploadPart,
    Evaluation,
    Job,
    StoredFile,
)

#: Seed of the advisory locks of tenants on PostgreSQL.
STORAGE_LOCK = 0x706C6462


def check_storage_quota(
    session: Session, settings: Settings, tenant_id: str, further_bytes: int
) -> None:
    """Raise QuotaError if ``further_bytes`` more would exceed the tenant's storage quota.

    With ``further_bytes`` 0, raise it if no byte is free. With more, the tenant's other checks wait
    until the end of the transaction, which has to store the bytes.
    """
    if further_bytes and session.get_bind().dialect.name == "postgresql":
        # Two transactions at once would each miss the other's bytes. SQLite has one writer.
        key = func.hashtextextended(tenant_id, STORAGE_LOCK)
        session.execute(select(func.pg_advisory_xact_lock(key)))
    sums = [
        select(func.coalesce(func.sum(Dataset.bytes), 0)).where(Dataset.tenant_id == tenant_id),
        select(func.coalesce(func.sum(Adapter.bytes), 0)).where(Adapter.tenant_id == tenant_id),
        select(func.coalesce(func.sum(Evaluation.bytes), 0)).where(
            Evaluation.tenant_id == tenant_id
        ),
        select(func.coalesce(func.sum(StoredFile.size), 0))  # of score batches
        .join(Job, Job.id == StoredFile.owner_id)
        .where(Job.tenant_id == tenant_id, Job.kind == "score"),
        select(func.coalesce(func.sum(Checkpoint.bytes), 0))
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.tenant_id == tenant_id),
        select(func.coalesce(func.sum(DatasetUploadPart.bytes), 0))
        .join(DatasetUpload, DatasetUpload.id == DatasetUploadPart.upload_id)
        .where(DatasetUpload.tenant_id == tenant_id),
    ]
    sizes = session.execute(select(*(each.scalar_subquery() for each in sums))).one()
    stored = sum(int(size) for size in sizes)
    if stored + max(further_bytes, 1) > settings.quota_stored_bytes:
        more = f"; {further_bytes} more do not fit" if further_bytes else ""
        raise QuotaError(
            f"{stored} of {settings.quota_stored_bytes} bytes are in use{more}.",
            hint="Delete datasets, uploads, adapters or jobs that you no longer need. Paused jobs "
            "keep their checkpoints, and failed jobs keep theirs for one day.",
        )
