"""Operations of a worker on jobs: claim one, renew its lease, write for it and end the attempt.

Every write starts with the check of the lease and holds its session only for the statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.core.backoff import full_jitter
from app.core.database import now_ms, reader, transaction
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState, FailureCode, JobStatus
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted, Reported, RowsDone, Stepped
from app.domain.warnings import WarningCode
from app.job_queue import kinds
from app.job_queue.claim import ClaimTerms, claim_next_job
from app.job_queue.events import Event, upsert_metrics
from app.job_queue.lease import Lease, WriteContext, write_with_lease
from app.job_queue.transitions import status_after_failure, status_after_release, transition
from app.models import Job, JobLog, JobReport

MAX_WARNINGS = 50
MAX_DETAIL_CHARS = 8000


@dataclass(frozen=True)
class ClaimedJob:
    """A claimed job and the context of its worker's writes."""

    job: Job
    context: WriteContext


@dataclass(frozen=True)
class Progress:
    """What a trainer reported since the last write."""

    phase: str | None = None
    steps: Sequence[Stepped] = ()
    notes: Sequence[Noted] = ()
    reports: Sequence[Reported] = ()
    rows: RowsDone | None = None
    plan: TrainingPlan | None = None


@dataclass(frozen=True)
class AttemptFailure:
    """Why an attempt failed; without ``step`` it failed at the last step that was reported.

    ``avoid_host`` names a host that the next attempt should not run on.
    """

    code: FailureCode
    detail: str
    step: int | None = None
    avoid_host: str | None = None


def claim(
    engine: Engine, settings: Settings, queue: str, owner: str, host: str, *, has_gpu: bool = False
) -> ClaimedJob | None:
    """Claim the best waiting job of a queue; return None if no job waits.

    Without a GPU, jobs that need one are left to other workers.
    """
    with transaction(engine) as session:
        terms = ClaimTerms(
            lease_ms=round(settings.lease_seconds * 1000),
            quota_running=settings.quota_running,
            longest_delay_ms=longest_delay_ms(settings),
            has_gpu=has_gpu,
            takes_turns=queue == kinds.INSPECT.queue(settings),
        )
        job = claim_next_job(session, queue, owner, host, terms)
    if job is None:
        return None
    return ClaimedJob(job, WriteContext(engine, settings, Lease(job.id, job.attempt, owner)))


def heartbeat(context: WriteContext) -> DesiredState:
    """Renew the lease; return the desired state of the job."""
    with transaction(context.engine) as session:
        return write_with_lease(session, context.lease, context.lease_ms)


def read_desired_state(context: WriteContext) -> DesiredState | None:
    """Read the desired state without a write; return None if the lease is lost."""
    lease = context.lease
    with reader(context.engine).connect() as connection:
        desired = connection.execute(
            select(Job.desired).where(
                Job.id == lease.job_id,
                Job.attempt == lease.attempt,
                Job.lease_owner == lease.owner,
            )
        ).scalar()
    return DesiredState(desired) if desired else None


def record_progress(context: WriteContext, progress: Progress) -> DesiredState:
    """Write the reports of a trainer and renew the lease; return the desired state."""
    lease = context.lease
    events = [Event(note.code, note.message, dict(note.data)) for note in progress.notes]
    if progress.phase is not None:
        events.append(Event("phase", f"Now {progress.phase}.", {"phase": progress.phase}))
    with transaction(context.engine) as session:
        desired = write_with_lease(
            session, lease, context.lease_ms, events, **_progress_columns(progress)
        )
        for step in progress.steps:
            upsert_metrics(session, lease.job_id, lease.attempt, step.step, step.metrics)
        _add_warnings(session, lease.job_id, progress)
        for report in progress.reports:
            _replace_report(session, lease, report)
    return desired


def record_log(context: WriteContext, seq: int, text: str) -> None:
    """Store a piece of the trainer's own output, at most 64 KiB."""
    lease = context.lease
    with transaction(context.engine) as session:
        write_with_lease(session, lease, context.lease_ms)
        # The piece exists already if the response to an earlier commit was lost.
        session.merge(JobLog(job_id=lease.job_id, attempt=lease.attempt, seq=seq, text=text))


def complete(context: WriteContext, result: dict[str, Any]) -> None:
    """End a job whose result is a document, not an adapter."""
    with transaction(context.engine) as session:
        transition(
            session,
            context.lease,
            JobStatus.SUCCEEDED,
            [Event("succeeded", "Done.")],
            result=result,
        )


def fail(context: WriteContext, failure: AttemptFailure) -> JobStatus:
    """End the attempt with a failure; return the job's new status."""
    settings, lease = context.settings, context.lease
    with transaction(context.engine) as session:
        # Only the holder of the lease changes these columns.
        known = session.execute(
            select(Job.kind, Job.failures, Job.step).where(Job.id == lease.job_id)
        )
        kind_name, failures, last_step = known.one_or_none() or ("", 0, None)
        kind = kinds.find(kind_name)
        max_failures = kind.max_failures(settings) if kind else settings.max_failures
        step = last_step if failure.step is None else failure.step
        event = Event(
            "attempt_failed",
            f"{failure.code}: {failure.detail}",
            {"code": failure.code, "step": step},
        )
        job = transition(
            session,
            lease,
            status_after_failure(
                is_retryable=failure.code.failure.is_retryable,
                max_failures=max_failures,
                max_stalls=settings.max_stalls,
            ),
            [event],
            failures=Job.failures + 1,
            stalls=Job.stalls + 1,
            run_after=now_ms() + retry_delay_ms(settings, failures),
            failure_code=failure.code,
            failure_detail=failure.detail[:MAX_DETAIL_CHARS],
            failure_step=step,
            avoid_host=failure.avoid_host,
        )
    return JobStatus(job.status)


def release(context: WriteContext, reason: str) -> JobStatus:
    """End the attempt by a request of the owner or for a drain; it does not count as a failure."""
    with transaction(context.engine) as session:
        job = transition(
            session,
            context.lease,
            status_after_release(),
            [Event("released", reason)],
            preemptions=Job.preemptions + 1,
            run_after=now_ms(),
        )
    return JobStatus(job.status)


def retry_delay_ms(settings: Settings, failures: int) -> int:
    """Return the milliseconds until the next attempt of a job that failed ``failures`` times."""
    seconds = full_jitter(
        failures, base=settings.backoff_seconds, maximum=settings.backoff_max_seconds
    )
    return round(seconds * 1000)


def longest_delay_ms(settings: Settings) -> int:
    """Return the most milliseconds that a job may wait for its next attempt."""
    return round(settings.backoff_max_seconds * 1000)


def _progress_columns(progress: Progress) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if progress.phase is not None:
        values |= {"phase": progress.phase, "rows": None}
    if progress.rows is not None:
        values["rows"] = progress.rows.model_dump(exclude={"type"})
    if progress.steps:
        last = progress.steps[-1]
        values |= {
            "step": last.step,
            "total_steps": last.total_steps,
            "epoch": last.epoch,
            "progressed_at": now_ms(),
            "rate_step": func.coalesce(Job.rate_step, progress.steps[0].step),
            "rate_at": func.coalesce(Job.rate_at, now_ms()),
        }
    if progress.plan is not None:
        values["plan"] = progress.plan.model_dump(mode="json")
    return values


def _add_warnings(session: Session, job_id: str, progress: Progress) -> None:
    warnings = [note for note in progress.notes if note.is_warning]
    if not warnings and progress.plan is None:
        return
    known = session.execute(select(Job.warnings).where(Job.id == job_id)).scalar_one()
    if progress.plan is not None:  # a plan is made only after an inspection of the base model
        known = [old for old in known if old["code"] != WarningCode.NOT_INSPECTED]
    found = progress.plan.data_warnings() if progress.plan is not None else []
    found += [{"code": note.code, "message": note.message} for note in warnings]
    fresh = [new for new in found if all(new["message"] != old["message"] for old in known)]
    session.execute(
        update(Job).where(Job.id == job_id).values(warnings=[*known, *fresh][:MAX_WARNINGS])
    )


def _replace_report(session: Session, lease: Lease, report: Reported) -> None:
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
