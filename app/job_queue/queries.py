"""Read-only queries on jobs of any kind and on workers, without the ORM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, func, not_, or_, select

from app.core.database import not_by_index
from app.domain.lifecycle import DesiredState, JobStatus
from app.job_queue import guards, kinds
from app.job_queue.workers import is_alive
from app.models import Checkpoint, Job, JobEvent, JobLog, JobMetric, JobReport, Worker

#: A row of ``jobs``, with columns named as the attributes of ``app.models.Job``.
JobRow = Any


class State(NamedTuple):
    """The columns of which at least one changes with any visible change of a job."""

    version: int
    event_seq: int
    status: str


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, State]:
    """Return the states of jobs of any kind and tenant, by id."""
    rows = connection.execute(
        select(Job.id, Job.version, Job.event_seq, Job.status).where(Job.id.in_(job_ids))
    )
    return {row.id: State(row.version, row.event_seq, row.status) for row in rows}


def events(connection: Connection, job_id: str, after: int, limit: int) -> Sequence[Any]:
    """Return up to ``limit`` events with a number above ``after``, ascending."""
    return connection.execute(
        select(
            JobEvent.seq,
            JobEvent.type,
            JobEvent.message,
            JobEvent.data,
            JobEvent.attempt,
            JobEvent.at,
        )
        .where(JobEvent.job_id == job_id, JobEvent.seq > after)
        .order_by(JobEvent.seq)
        .limit(limit)
    ).all()


def metrics(
    connection: Connection,
    job_id: str,
    keys: Sequence[str],
    from_step: int,
    to_step: int | None,
    resolution: int,
) -> dict[str, list[float | None]]:
    """Return metrics as columns of at most ``resolution`` points.

    With more steps, each point is the mean over an interval of steps of equal width. The database
    computes the means: a long run has a million values.
    """
    wanted = [JobMetric.job_id == job_id, JobMetric.step >= from_step]
    if to_step is not None:
        wanted.append(JobMetric.step <= to_step)
    if keys:
        wanted.append(JobMetric.name.in_(keys))
    first, last = connection.execute(
        select(func.min(JobMetric.step), func.max(JobMetric.step)).where(*wanted)
    ).one()
    if first is None:
        return {"step": []} | {key: [] for key in keys}
    width = (last - first) // resolution + 1
    bucket = (JobMetric.step - first) // width
    rows = connection.execute(
        select(
            bucket.label("bucket"),
            JobMetric.name,
            func.max(JobMetric.step).label("step"),
            func.avg(JobMetric.value).label("value"),
        )
        .where(*wanted)
        .group_by(bucket, JobMetric.name)
    ).all()
    steps: dict[int, int] = {}
    for row in rows:
        steps[row.bucket] = max(row.step, steps.get(row.bucket, 0))
    place = {name: i for i, name in enumerate(sorted(steps))}
    names = list(keys) or sorted({row.name for row in rows})
    columns: dict[str, list[float | None]] = {name: [None] * len(place) for name in names}
    for row in rows:
        columns[row.name][place[row.bucket]] = row.value
    return {"step": [steps[b] for b in sorted(steps)], **columns}


def logs(
    connection: Connection, job_id: str, after: tuple[int, int] | None, limit: int
) -> Sequence[Any]:
    """Return up to ``limit`` log pieces after ``(attempt, seq)``, oldest first."""
    statement = _pieces(job_id)
    if after is not None:
        attempt, seq = after
        statement = statement.where(
            or_(JobLog.attempt > attempt, and_(JobLog.attempt == attempt, JobLog.seq > seq))
        )
    return connection.execute(
        statement.order_by(JobLog.attempt, JobLog.seq).limit(limit)
    ).all()  # fmt: skip


def last_logs(connection: Connection, job_id: str, limit: int) -> Sequence[Any]:
    """Return the last ``limit`` log pieces, oldest first."""
    newest = _pieces(job_id).order_by(JobLog.attempt.desc(), JobLog.seq.desc()).limit(limit)
    return connection.execute(newest).all()[::-1]


def checkpoints(connection: Connection, job_id: str) -> Sequence[Any]:
    """Return the stored checkpoints of a job, newest first."""
    return connection.execute(
        select(
            Checkpoint.id,
            Checkpoint.attempt,
            Checkpoint.step,
            Checkpoint.bytes,
            Checkpoint.metrics,
            Checkpoint.is_best,
            Checkpoint.created_at,
        )
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.id.desc())
    ).all()


def waiting(
    connection: Connection, tenant_id: str, queue: str, limit: int, longest_delay_ms: int
) -> Sequence[Any]:
    """Return this tenant's queued jobs with their positions among the jobs of all tenants.

    Jobs of every kind count for the positions, since all of them wait for the same workers.
    """
    order = func.row_number().over(order_by=[Job.priority.desc(), Job.created_at, Job.id])
    line = (
        select(
            Job.id,
            Job.kind,
            Job.tenant_id,
            Job.priority,
            Job.created_at,
            Job.needs_gpu,
            not_(guards.is_due(Job, longest_delay_ms)).label("is_backing_off"),
            order.label("position"),
        )
        .where(
            Job.status == JobStatus.QUEUED, Job.desired == DesiredState.RUN, Job.queue == queue
        )
        .subquery()
    )  # fmt: skip
    return connection.execute(
        select(line)
        .where(line.c.tenant_id == tenant_id, kinds.is_announced(line.c.kind))
        .order_by(line.c.position)
        .limit(limit)
    ).all()  # fmt: skip


def running_count(connection: Connection, tenant_id: str) -> int:
    """Return the number of running jobs of this tenant that count against its quota."""
    return connection.execute(
        select(func.count()).where(
            not_by_index(Job.tenant_id) == tenant_id,
            Job.status == JobStatus.RUNNING,
            not_(kinds.is_free_of_quota(Job.kind)),
        )
    ).scalar_one()


def live_workers(connection: Connection) -> Sequence[Any]:
    """Return the workers that updated their rows lately."""
    return connection.execute(
        select(*Worker.__table__.c)
        .where(is_alive())
        .order_by(Worker.id)
    ).all()  # fmt: skip


def running_jobs(connection: Connection, tenant_id: str) -> Sequence[Any]:
    """Return ids, kinds, queues and lease owners of this tenant's running jobs."""
    return connection.execute(
        select(Job.id, Job.kind, Job.queue, Job.lease_owner).where(
            not_by_index(Job.tenant_id) == tenant_id,
            Job.status == JobStatus.RUNNING,
            kinds.is_announced(Job.kind),
        )
    ).all()


def _pieces(job_id: str) -> Select[int, int, int, str]:
    return select(JobLog.attempt, JobLog.seq, JobLog.at, JobLog.text).where(JobLog.job_id == job_id)


def report(connection: Connection, job_id: str, name: str) -> dict[str, Any] | None:
    """Return a report of a job; None if it has no report with this name."""
    return connection.execute(
        select(JobReport.document).where(JobReport.job_id == job_id, JobReport.name == name)
    ).scalar()
