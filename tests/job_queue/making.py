"""Jobs as the service makes them, without HTTP, and files as a trainer leaves them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.core.database import new_id, reader, transaction
from app.domain.progress import CheckpointSaved, FileEntry, Packaged
from app.job_queue import transitions
from app.models import Job, JobEvent

TENANT = "acme"
QUEUE = "plaudit.default"


def make_job(session: Session, **fields: Any) -> Job:
    """A queued job."""
    return transitions.insert_job(
        session,
        Job(
            **{
                "id": new_id("job"),
                "tenant_id": TENANT,
                "queue": QUEUE,
                "spec": {"base_model": "tiny", "train_dataset": "ds_" + "0" * 32},
                "spec_sha256": "0" * 64,
                "base_model": "tiny",
                **fields,
            }
        ),
    )


def queue_job(engine: Engine, **fields: Any) -> str:
    """The id of a committed, queued job."""
    with transaction(engine) as session:
        return make_job(session, **fields).id


def look(engine: Engine, job_id: str) -> Job:
    """The row as it is now."""
    with transaction(reader(engine)) as session:
        return session.get_one(Job, job_id)


def events_of(engine: Engine, job_id: str) -> list[JobEvent]:
    """Everything that happened to a job, in order."""
    with transaction(engine) as session:
        found = select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        return list(session.scalars(found))


def write_files(directory: Path, files: dict[str, bytes]) -> list[FileEntry]:
    """Files on disk and what they hash to."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return [
        FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    ]


def write_checkpoint(directory: Path, step: int, **more: Any) -> CheckpointSaved:
    """A checkpoint on disk and what a trainer says of it."""
    files = write_files(directory, {"state.bin": b"%d" % step * 1000, "manifest.json": b"{}"})
    return CheckpointSaved(step=step, directory="checkpoint", files=files, **more)


def write_adapter(directory: Path, files: dict[str, bytes]) -> Packaged:
    """An adapter on disk and what a trainer says of it."""
    return Packaged(
        directory="adapter", files=write_files(directory, files), certificate={"is_verified": True}
    )
