"""What a worker may do with the job it holds; every write is fenced, none holds a session long."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, delete, func, insert, or_, select, update

from app.adapters.archive import archive_digest
from app.blobs import BlobWriter, StoredBlob, is_intact, read_range
from app.database import new_id, now_ms, reader, transaction
from app.domain.lifecycle import TERMINAL, Desired, FailureCode, JobStatus
from app.domain.plan import TrainingPlan
from app.domain.progress import CheckpointSaved, FileEntry, Noted, Packaged, Reported, Stepped
from app.jobs import repository
from app.jobs.repository import Event, Lease
from app.models import Adapter, Checkpoint, Job, JobLog, JobReport, StoredFile
from app.settings import Settings

log = structlog.get_logger()

#: Checkpoints kept while a job lives: the last two (one may be damaged) and the best.
KEPT_CHECKPOINTS = 2
#: So long a failed job's checkpoints are kept: a clone with other limits may go on from them.
FAILED_KEPT_MS = 86_400_000
#: By fencing token, not by id: ids carry the clock of the worker that made them.
NEWEST_FIRST = (Checkpoint.attempt.desc(), Checkpoint.step.desc(), Checkpoint.id.desc())


class ArtifactDamaged(Exception):
    """A file does not hash to what its maker said."""


class ArtifactTooLarge(Exception):
    """More bytes than the operator allows."""


def claim(
    engine: Engine, settings: Settings, queue: str, owner: str, host: str
) -> tuple[Job, Lease] | None:
    """The best waiting job of a queue and the lease on it, or None."""
    with transaction(engine) as session:
        job = repository.claim(
            session,
            queue,
            owner,
            host,
            _ms(settings.lease_seconds),
            settings.quota_running,
        )
    if job is None:
        return None
    return job, Lease(job.id, job.attempt, owner)


def heartbeat(engine: Engine, settings: Settings, lease: Lease) -> Desired:
    """Renew the lease; what the owner of the job wants now."""
    with transaction(engine) as session:
        return repository.fence(session, lease, _ms(settings.lease_seconds))


def wish(engine: Engine, lease: Lease) -> Desired | None:
    """What the owner wants, read without a write; None when the lease is lost."""
    with reader(engine).connect() as connection:
        desired = connection.execute(
            select(Job.desired).where(
                Job.id == lease.job_id,
                Job.attempt == lease.attempt,
                Job.lease_owner == lease.owner,
            )
        ).scalar()
    return Desired(desired) if desired else None


def record(
    engine: Engine,
    settings: Settings,
    lease: Lease,
    *,
    phase: str | None = None,
    steps: Sequence[Stepped] = (),
    notes: Sequence[Noted] = (),
    reports: Sequence[Reported] = (),
    plan: TrainingPlan | None = None,
) -> Desired:
    """Write what a trainer said, in one transaction with the heartbeat."""
    values: dict[str, Any] = {}
    events = [Event(note.code, note.message, dict(note.data)) for note in notes]
    if phase is not None:
        values["phase"] = phase
        events.append(Event("phase", f"Now {phase}.", {"phase": phase}))
    if steps:
        last = steps[-1]
        values |= {
            "step": last.step,
            "total_steps": last.total_steps,
            "epoch": last.epoch,
            "progressed_at": now_ms(),
            "rate_step": func.coalesce(Job.rate_step, steps[0].step),
            "rate_at": func.coalesce(Job.rate_at, now_ms()),
        }
    if plan is not None:
        values["plan"] = plan.model_dump(mode="json")
    with transaction(engine) as session:
        desired = repository.fence(session, lease, _ms(settings.lease_seconds), events, **values)
        for step in steps:
            repository.upsert_metrics(session, lease, step.step, step.metrics)
        warnings = [n for n in notes if n.is_warning]
        if warnings:
            known = session.execute(select(Job.warnings).where(Job.id == lease.job_id)).scalar_one()
            fresh = [
                {"code": n.code, "message": n.message}
                for n in warnings
                if all(n.message != old["message"] for old in known)
            ]
            session.execute(
                update(Job).where(Job.id == lease.job_id).values(warnings=[*known, *fresh][:50])
            )
        for report in reports:
            key = (JobReport.job_id == lease.job_id, JobReport.name == report.name)
            session.execute(delete(JobReport).where(*key))
            session.execute(
                insert(JobReport).values(
                    job_id=lease.job_id,
                    name=report.name,
                    attempt=lease.attempt,
                    document=report.document,
                )
            )
        return desired


def record_log(engine: Engine, settings: Settings, lease: Lease, seq: int, text: str) -> None:
    """Keep a piece of the trainer's own output (at most 64 KiB)."""
    with transaction(engine) as session:
        repository.fence(session, lease, _ms(settings.lease_seconds))
        # Written again when the answer to the first commit was lost on the way.
        session.merge(JobLog(job_id=lease.job_id, attempt=lease.attempt, seq=seq, text=text))


def save_checkpoint(
    engine: Engine, settings: Settings, lease: Lease, directory: Path, saved: CheckpointSaved
) -> None:
    """Store a checkpoint's files, then point the job at it; older ones are let go.

    One that is newer than all before is progress: what went wrong until then is forgiven.
    """
    blobs = _store(engine, settings, directory, saved.files)
    checkpoint_id = new_id("ckpt")
    size = sum(entry.size for entry in saved.files)
    event = Event("checkpoint", f"Checkpoint at step {saved.step}.", {"step": saved.step})
    with transaction(engine) as session:
        newest = session.scalar(
            select(func.max(Checkpoint.step)).where(Checkpoint.job_id == lease.job_id)
        )
        is_progress = newest is None or saved.step > newest
        repository.fence(
            session,
            lease,
            _ms(settings.lease_seconds),
            [event],
            checkpoint_id=checkpoint_id,
            **(dict.fromkeys(("failures", "crashes", "stalls"), 0) if is_progress else {}),
        )
        if saved.is_best:
            session.execute(
                update(Checkpoint).where(Checkpoint.job_id == lease.job_id).values(is_best=False)
            )
        session.add(
            Checkpoint(
                id=checkpoint_id,
                job_id=lease.job_id,
                attempt=lease.attempt,
                step=saved.step,
                is_best=saved.is_best,
                bytes=size,
                metrics=dict(saved.metrics),
            )
        )
        session.add_all(_files(checkpoint_id, blobs))
        session.flush()
        old = list(
            session.scalars(
                select(Checkpoint.id)
                .where(Checkpoint.job_id == lease.job_id, Checkpoint.is_best.is_(False))
                .order_by(*NEWEST_FIRST)
                .offset(KEPT_CHECKPOINTS)
            )
        )
        session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(old)))
        session.execute(delete(Checkpoint).where(Checkpoint.id.in_(old)))


def publish(
    engine: Engine, settings: Settings, lease: Lease, directory: Path, packaged: Packaged
) -> str:
    """Store the adapter, read it back, and end the job with it, all or nothing.

    Raises:
        ArtifactDamaged, ArtifactTooLarge: nothing is published.
        LeaseLost: the job is somebody else's.
    """
    blobs = _store(engine, settings, directory, packaged.files)
    for name, blob in blobs.items():
        if not is_intact(engine, blob):
            raise ArtifactDamaged(f"{name} read back from the database differs")
    archive_sha256, archive_bytes = archive_digest(engine, blobs)
    adapter_id = new_id("ad")
    event = Event("succeeded", "The adapter is published.", {"adapter_id": adapter_id})
    with transaction(engine) as session:
        job = repository.leave(
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
        session.add_all(_files(adapter_id, blobs))
    return adapter_id


def complete(engine: Engine, lease: Lease, result: dict[str, Any]) -> None:
    """End a job that makes a document, not an adapter."""
    with transaction(engine) as session:
        repository.leave(
            session, lease, JobStatus.SUCCEEDED, [Event("succeeded", "Done.")], result=result
        )


def fail(
    engine: Engine,
    settings: Settings,
    lease: Lease,
    code: FailureCode,
    detail: str,
    step: int | None = None,
    *,
    host: str | None = None,
) -> JobStatus:
    """End the attempt badly; where that leaves the job."""
    is_retryable = code.failure.is_retryable
    status = repository.after_failure(is_retryable, settings.max_failures, settings.max_stalls)
    event = Event("attempt_failed", f"{code}: {detail}", {"code": code, "step": step})
    with transaction(engine) as session:
        # Nobody but the holder of the lease changes it.
        failures = session.scalar(select(Job.failures).where(Job.id == lease.job_id)) or 0
        job = repository.leave(
            session,
            lease,
            status,
            [event],
            failures=Job.failures + 1,
            stalls=Job.stalls + 1,
            run_after=now_ms() + backoff_ms(settings, failures),
            failure_code=code,
            failure_detail=detail[:8000],
            failure_step=step,
            avoid_host=host,
        )
        return JobStatus(job.status)


def release(engine: Engine, lease: Lease, reason: str) -> JobStatus:
    """Hand the job back as its owner wants it (or for a drain), never charged for it."""
    with transaction(engine) as session:
        job = repository.leave(
            session,
            lease,
            repository.after_release(),
            [Event("released", reason)],
            preemptions=Job.preemptions + 1,
            run_after=now_ms(),
        )
        return JobStatus(job.status)


def checkpoint_files(engine: Engine, job_id: str) -> list[tuple[Checkpoint, list[StoredFile]]]:
    """The job's checkpoints, newest first, with their files."""
    with transaction(reader(engine)) as session:
        checkpoints = list(
            session.scalars(
                select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*NEWEST_FIRST)
            )
        )
        return [
            (
                checkpoint,
                list(
                    session.scalars(select(StoredFile).where(StoredFile.owner_id == checkpoint.id))
                ),
            )
            for checkpoint in checkpoints
        ]


def fetch(engine: Engine, blob_id: str, size: int, target: Path, sha256: str) -> None:
    """Write a blob to a file of this machine; ArtifactDamaged when it is not what was stored."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for piece in read_range(engine, blob_id, 0, size):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise ArtifactDamaged(f"{target.name} is not what was stored")


def drop_ended_checkpoints(engine: Engine) -> int:
    """Let go of the checkpoints of ended jobs, except those asked to be kept; how many."""
    with transaction(engine) as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.job_id)
            .join(Job, Job.id == Checkpoint.job_id)
            .where(
                Job.status.in_(TERMINAL),
                Job.keep_checkpoint.is_(False),
                or_(
                    Job.status != JobStatus.FAILED,
                    Job.finished_at < now_ms() - FAILED_KEPT_MS,
                ),
            )
            .limit(100)
        ).all()
        ended = [checkpoint_id for checkpoint_id, _ in rows]
        session.execute(
            update(Job)
            .where(Job.id.in_([job_id for _, job_id in rows]))
            .values(checkpoint_id=None)
            .execution_options(synchronize_session=False)
        )
        session.execute(delete(StoredFile).where(StoredFile.owner_id.in_(ended)))
        session.execute(delete(Checkpoint).where(Checkpoint.id.in_(ended)))
        return len(ended)


def backoff_ms(settings: Settings, failures: int) -> int:
    """Full jitter (Brooker 2015): uniform in 0 … min(max, base · 2ⁿ)."""
    ceiling = min(settings.backoff_max_seconds, settings.backoff_seconds * 2 ** min(failures, 20))
    return _ms(random.uniform(0, ceiling))  # noqa: S311 - spreads load, guards nothing


def _store(
    engine: Engine, settings: Settings, directory: Path, entries: Sequence[FileEntry]
) -> dict[str, StoredBlob]:
    total = sum(entry.size for entry in entries)
    if total > settings.max_artifact_bytes:
        raise ArtifactTooLarge(f"{total} bytes, the limit is {settings.max_artifact_bytes}")
    blobs: dict[str, StoredBlob] = {}
    for entry in sorted(entries, key=lambda e: e.name):
        with (directory / entry.name).open("rb") as file, BlobWriter(engine) as writer:
            while piece := file.read(1 << 20):
                writer.write(piece)
            blob = writer.finish()
        if (blob.sha256, blob.size) != (entry.sha256, entry.size):
            raise ArtifactDamaged(f"{entry.name} is not what the trainer said it wrote")
        blobs[entry.name] = blob
    return blobs


def _files(owner_id: str, blobs: dict[str, StoredBlob]) -> list[StoredFile]:
    return [
        StoredFile(owner_id=owner_id, name=name, blob_id=b.id, sha256=b.sha256, size=b.size)
        for name, b in blobs.items()
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
