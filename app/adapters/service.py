"""Finds and deletes the adapters of a tenant. Adapters are immutable."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.core.database import newest_first
from app.core.errors import NotFoundError
from app.models import Adapter, Job, StoredFile


class AdapterNotFoundError(NotFoundError):
    """This tenant has no adapter with this id, or the adapter has no such file."""

    code = "adapter_not_found"
    title = "No such adapter"


def get(session: Session, tenant_id: str, adapter_id: str) -> Adapter:
    """Return an adapter of this tenant, or raise AdapterNotFoundError."""
    adapter = session.scalar(
        select(Adapter).where(Adapter.id == adapter_id, Adapter.tenant_id == tenant_id)
    )
    if adapter is None:
        raise AdapterNotFoundError(f"There is no adapter {adapter_id}.")
    return adapter


def list_page(
    session: Session, tenant_id: str, limit: int, after: str | None, job_id: str | None
) -> list[Adapter]:
    """Return up to ``limit + 1`` adapters, newest first."""
    statement = select(Adapter).where(Adapter.tenant_id == tenant_id)
    if job_id is not None:
        statement = statement.where(Adapter.job_id == job_id)
    return list(session.scalars(newest_first(statement, Adapter.id, limit, after)))


def files(session: Session, adapter: Adapter) -> list[StoredFile]:
    """Return the files of an adapter, ordered by name."""
    return list(
        session.scalars(
            select(StoredFile).where(StoredFile.owner_id == adapter.id).order_by(StoredFile.name)
        )
    )


def file(session: Session, adapter: Adapter, name: str) -> StoredFile:
    """Return a file of an adapter, or raise AdapterNotFoundError."""
    found = session.get(StoredFile, (adapter.id, name))
    if found is None:
        raise AdapterNotFoundError(f"The adapter {adapter.id} has no file with this name.")
    return found


def remove(session: Session, tenant_id: str, adapter_id: str) -> None:
    """Delete an adapter and remove it from its job, which is kept."""
    adapter = get(session, tenant_id, adapter_id)
    session.execute(
        update(Job)
        .where(Job.id == adapter.job_id, Job.adapter_id == adapter_id)
        .values(adapter_id=None, version=Job.version + 1)
    )
    session.execute(delete(StoredFile).where(StoredFile.owner_id == adapter_id))
    session.execute(delete(Adapter).where(Adapter.id == adapter_id))
