"""Read-only queries on training jobs. Core, not ORM: a job by id is the most frequent request."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, bindparam, or_, select

from app.core.database import newest_first
from app.domain.lifecycle import DesiredState, JobStatus
from app.domain.training_arguments import RewardArguments
from app.job_queue import kinds
from app.job_queue.queries import JobRow, State
from app.models import Job

#: Large columns that lists leave out.
_HEAVY = {"spec", "plan", "result", "warnings", "notes"}
_KEYS = Job.__mapper__.column_attrs.keys()
_ALL = tuple(getattr(Job, key).label(key) for key in _KEYS)
_LIGHT = [getattr(Job, key).label(key) for key in _KEYS if key not in _HEAVY]
_STATE = (Job.version, Job.event_seq, Job.status)


@dataclass(frozen=True)
class JobFilter:
    """Restricts a list of jobs; None means any."""

    status: str | None = None
    name: str | None = None
    base_model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


def job(connection: Connection, tenant_id: str, job_id: str) -> JobRow | None:
    """Return a job of this tenant."""
    statement = _by_id(_ALL, kinds.listed_names())
    return connection.execute(statement, {"tenant_id": tenant_id, "job_id": job_id}).one_or_none()


def state(connection: Connection, tenant_id: str, job_id: str) -> State | None:
    """Return the columns that the entity tag of a job consists of."""
    statement = _by_id(_STATE, kinds.listed_names())
    row = connection.execute(statement, {"tenant_id": tenant_id, "job_id": job_id}).one_or_none()
    return None if row is None else State(*row)


def list_page(
    connection: Connection, tenant_id: str, limit: int, after: str | None, wanted: JobFilter
) -> Sequence[JobRow]:
    """Return up to ``limit + 1`` jobs, newest first."""
    statement = _of_tenant(_LIGHT, tenant_id)
    match wanted.status:
        case None:
            pass
        case "cancelling" | "pausing":
            desired = DesiredState.CANCEL if wanted.status == "cancelling" else DesiredState.PAUSE
            statement = statement.where(Job.status == JobStatus.RUNNING, Job.desired == desired)
        case "running":
            statement = statement.where(
                Job.status == JobStatus.RUNNING, Job.desired == DesiredState.RUN
            )
        case _:
            statement = statement.where(Job.status == wanted.status)
    if wanted.name is not None:
        statement = statement.where(Job.name == wanted.name)
    if wanted.base_model is not None:
        statement = statement.where(Job.base_model == wanted.base_model)
    for key, value in wanted.metadata.items():
        statement = statement.where(Job.labels[key].as_string() == value)
    if wanted.text is not None:
        columns = (Job.name, Job.id, Job.base_model)
        statement = statement.where(
            or_(*(column.icontains(wanted.text, autoescape=True) for column in columns))
        )
    return connection.execute(newest_first(statement, Job.id, limit, after)).all()


def _of_tenant(columns: Sequence[Any], tenant_id: str) -> Select[Any]:
    return select(*columns).where(Job.tenant_id == tenant_id, kinds.is_listed(Job.kind))


@functools.cache
def _by_id(columns: tuple[Any, ...], _listed: tuple[str, ...]) -> Select[Any]:
    """Build the statement once: building it takes longer than the look-up of its cached SQL."""
    return select(*columns).where(
        Job.tenant_id == bindparam("tenant_id"),
        Job.id == bindparam("job_id"),
        kinds.is_listed(Job.kind),
    )


def pair_seconds(connection: Connection, base_model: str) -> float | None:
    """Return the seconds per pair of the newest finished job of this base model."""
    row = connection.execute(
        select(Job.rate_step, Job.rate_at, Job.step, Job.progressed_at, Job.plan)
        .where(
            Job.kind == kinds.TRAIN.name,
            Job.status == JobStatus.SUCCEEDED,
            Job.base_model == base_model,
            Job.step > Job.rate_step,
        )
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None or row.plan is None:
        return None
    pairs = (row.step - row.rate_step) * RewardArguments.model_validate(
        row.plan["reward"]
    ).pairs_per_step
    return float((row.progressed_at - row.rate_at) / 1000 / pairs)
