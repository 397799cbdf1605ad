"""Publishes an adapter: stores its files, reads them back and ends the job."""

from __future__ import annotations

from pathlib import Path

from app.adapters.archive import archive_digest
from app.core.database import new_id, transaction
from app.domain.lifecycle import DesiredState, JobStatus
from app.domain.progress import Packaged
from app.job_queue.events import Event
from app.job_queue.lease import WriteContext
from app.job_queue.transitions import transition
from app.models import Adapter
from app.storage.artifact_files import ArtifactDamagedError, file_rows, store
from app.storage.blobs import is_intact


def publish(context: WriteContext, directory: Path, packaged: Packaged) -> str:
    """Store the adapter, read it back, end the job as succeeded and return the adapter's id.

    Nothing is published if an error is raised.

    Raises:
        ArtifactDamagedError: a file differs from what was written.
        ArtifactTooLargeError: a file exceeds the limit.
        LeaseLostError: another worker has the job.
    """
    engine = context.engine
    blobs = store(engine, context.settings, directory, packaged.files)
    for name, blob in blobs.items():
        if not is_intact(engine, blob):
            raise ArtifactDamagedError(f"{name} read back from the database differs")
    archive_sha256, archive_bytes = archive_digest(engine, blobs)
    adapter_id = new_id("ad")
    event = Event("succeeded", "The adapter is published.", {"adapter_id": adapter_id})
    with transaction(engine) as session:
        job = transition(
            session,
            context.lease,
            JobStatus.SUCCEEDED,
            [event],
            adapter_id=adapter_id,
            desired=DesiredState.RUN,  # the work is done: ignore a late cancellation
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
