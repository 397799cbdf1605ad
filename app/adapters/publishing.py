"""Publish an adapter: store its files, read them back and end the job."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from app.adapters.archive import archive_digest
from app.core.database import new_id, transaction
from app.core.settings import Settings
from app.domain.lifecycle import Desired, JobStatus
from app.domain.progress import Packaged
from app.job_queue import transitions
from app.job_queue.events import Event
from app.job_queue.transitions import Lease
from app.models import Adapter
from app.storage.artifact_files import ArtifactDamagedError, file_rows, store
from app.storage.blobs import is_intact


def publish(
    engine: Engine, settings: Settings, lease: Lease, directory: Path, packaged: Packaged
) -> str:
    """Store the adapter, read it back, and end the job with it, all or nothing.

    Raises:
        ArtifactDamaged, ArtifactTooLarge: nothing is published.
        LeaseLost: the job is somebody else's.
    """
    blobs = store(engine, settings, directory, packaged.files)
    for name, blob in blobs.items():
        if not is_intact(engine, blob):
            raise ArtifactDamagedError(f"{name} read back from the database differs")
    archive_sha256, archive_bytes = archive_digest(engine, blobs)
    adapter_id = new_id("ad")
    event = Event("succeeded", "The adapter is published.", {"adapter_id": adapter_id})
    with transaction(engine) as session:
        job = transitions.leave(
            session, lease, JobStatus.SUCCEEDED, [event], adapter_id=adapter_id, desired=Desired.RUN
        )
        session.add(
            Adapter(
                id=adapter_id,
                tenant_id=job.tenant_id,
                job_id=job.id,
                base_model=job.base_model,
                revision=(job.plan or {}).get("base_model", {}).get("revision"),
                bytes=sum(blob.size for blob in blobs.values()),
                archive_sha256=archive_sha256,
                archive_bytes=archive_bytes,
                metrics=dict(packaged.metrics),
                certificate=packaged.certificate,
                summary=packaged.summary,
            )
        )
        session.add_all(file_rows(adapter_id, blobs))
    return adapter_id
