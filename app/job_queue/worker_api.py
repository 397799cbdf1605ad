"""What a worker may do with the job it holds; every write is fenced, none holds a session long."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Engine, delete, func, insert, select, update

from app.core.database import now_ms, reader, transaction
from app.core.settings import Settings
from app.domain.lifecycle import Desired, FailureCode, JobStatus
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted, Reported, Stepped
from app.domain.warnings import WarningCode
from app.job_queue import transitions
from app.job_queue.claim import claim_next_job
from app.job_queue.events import Event, upsert_metrics
from app.job_queue.transitions import Lease
from app.models import Job, JobLog, JobReport

log = structlog.get_logger()


def claim(
    engine: Engine, settings: Settings, queue: str, owner: str, host: str
) -> tuple[Job, Lease] | None:
    """The best waiting job of a queue and the lease on it, or None."""
    with transaction(engine) as session:
        job = claim_next_job(
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
        return transitions.fence(session, lease, _ms(settings.lease_seconds))


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
        desired = transitions.fence(session, lease, _ms(settings.lease_seconds), events, **values)
        for step in steps:
            upsert_metrics(session, lease.job_id, lease.attempt, step.step, step.metrics)
        warnings = [n for n in notes if n.is_warning]
        if warnings or plan is not None:
            known = session.execute(select(Job.warnings).where(Job.id == lease.job_id)).scalar_one()
            if plan is not None:  # which nobody makes without a look at the base model
                known = [old for old in known if old["code"] != WarningCode.NOT_INSPECTED]
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
        transitions.fence(session, lease, _ms(settings.lease_seconds))
        # Written again when the answer to the first commit was lost on the way.
        session.merge(JobLog(job_id=lease.job_id, attempt=lease.attempt, seq=seq, text=text))


def complete(engine: Engine, lease: Lease, result: dict[str, Any]) -> None:
    """End a job that makes a document, not an adapter."""
    with transaction(engine) as session:
        transitions.leave(
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
    """End the attempt badly, at ``step`` or the last one told; where that leaves the job."""
    is_retryable = code.failure.is_retryable
    status = transitions.after_failure(is_retryable, settings.max_failures, settings.max_stalls)
    with transaction(engine) as session:
        # Nobody but the holder of the lease changes them.
        known = session.execute(select(Job.failures, Job.step).where(Job.id == lease.job_id))
        failures, last_step = known.one_or_none() or (0, None)
        step = last_step if step is None else step
        event = Event("attempt_failed", f"{code}: {detail}", {"code": code, "step": step})
        job = transitions.leave(
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
        job = transitions.leave(
            session,
            lease,
            transitions.after_release(),
            [Event("released", reason)],
            preemptions=Job.preemptions + 1,
            run_after=now_ms(),
        )
        return JobStatus(job.status)


def backoff_ms(settings: Settings, failures: int) -> int:
    """Full jitter (Brooker 2015): uniform in 0 … min(max, base · 2ⁿ)."""
    ceiling = min(settings.backoff_max_seconds, settings.backoff_seconds * 2 ** min(failures, 20))
    return _ms(random.uniform(0, ceiling))  # noqa: S311 - spreads load, guards nothing


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
