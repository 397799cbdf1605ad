"""Read-only queries on training jobs. Core, not ORM: a job by id is the most frequent request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from app.domain.lifecycle import Desired, JobKind, JobStatus
from app.domain.training_arguments import RewardArguments
from app.job_queue.queries import JobRow, State
from app.models import Job

#: What lists leave out: large, and never looked at there.
_HEAVY = {"spec", "plan", "result", "warnings"}
_KEYS = Job.__mapper__.column_attrs.keys()
_ALL = [getattr(Job, key).label(key) for key in _KEYS]
_LIGHT = [getattr(Job, key).label(key) for key in _KEYS if key not in _HEAVY]
_ITS_OWN = (
    Job.tenant_id == bindparam("tenant_id"),
    Job.id == bindparam("job_id"),
    Job.kind == JobKind.TRAIN,
)
#: Made once: what is asked most often is not put together anew each time.
_JOB = select(*_ALL).where(*_ITS_OWN)
_STATE = select(Job.version, Job.event_seq, Job.status).where(*_ITS_OWN)


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list is about; None means any."""

    status: str | None = None
    name: str | None = None
    base_model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def job(connection: Connection, tenant_id: str, job_id: str) -> JobRow | None:
    """A training job of this tenant."""
    return connection.execute(_JOB, {"tenant_id": tenant_id, "job_id": job_id}).one_or_none()


def state(connection: Connection, tenant_id: str, job_id: str) -> State | None:
    """Only what an ETag is made of."""
    row = connection.execute(_STATE, {"tenant_id": tenant_id, "job_id": job_id}).one_or_none()
    return None if row is None else State(*row)


def list_page(
    connection: Connection, tenant_id: str, limit: int, after: str | None, wanted: JobFilter
) -> Sequence[JobRow]:
    """Up to ``limit + 1`` jobs, newest first."""
    statement = _mine(_LIGHT, tenant_id)
    if after is not None:
        statement = statement.where(Job.id < after)
    match wanted.status:
        case None:
            pass
        case "cancelling" | "pausing":
            desired = Desired.CANCEL if wanted.status == "cancelling" else Desired.PAUSE
            statement = statement.where(Job.status == JobStatus.RUNNING, Job.desired == desired)
        case "running":
            statement = statement.where(Job.status == JobStatus.RUNNING, Job.desired == Desired.RUN)
        case _:
            statement = statement.where(Job.status == wanted.status)
    if wanted.name is not None:
        statement = statement.where(Job.name == wanted.name)
    if wanted.base_model is not None:
        statement = statement.where(Job.base_model == wanted.base_model)
    for key, value in wanted.metadata.items():
        statement = statement.where(Job.labels[key].as_string() == value)
    return connection.execute(statement.order_by(Job.id.desc()).limit(limit + 1)).all()


def _mine(columns: Sequence[Any], tenant_id: str) -> Select[Any]:
    return select(*columns).where(Job.tenant_id == tenant_id, Job.kind == JobKind.TRAIN)


def pair_seconds(connection: Connection, base_model: str) -> float | None:
    """Seconds that a pair of a step took in the newest finished job of this base model."""
    row = connection.execute(
        select(Job.rate_step, Job.rate_at, Job.step, Job.progressed_at, Job.plan)
        .where(
            Job.kind == JobKind.TRAIN,
            Job.status == JobStatus.SUCCEEDED,
            Job.base_model == base_model,
            Job.step > Job.rate_step,
        )
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    pairs = (row.step - row.rate_step) * RewardArguments.model_validate(
        row.plan["reward"]
    ).pairs_per_step
    return float((row.progressed_at - row.rate_at) / 1000 / pairs)
