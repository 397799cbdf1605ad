"""Events of a job, written in the transaction of the change that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.core.upsert import upsert
from app.job_queue import kinds
from app.job_queue.job_view import JobItem
from app.models import Job, JobEvent, JobMetric
from app.webhooks import outbox


@dataclass(frozen=True)
class Event:
    """An event that has no number yet."""

    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)


def add_events(
    session: Session, job_id: str, attempt: int, last_seq: int, events: Sequence[Event]
) -> None:
    """Write events whose last number is ``last_seq``; an update of the job allotted the numbers."""
    first = last_seq - len(events) + 1
    if events:
        session.execute(
            insert(JobEvent),
            [
                {
                    "job_id": job_id,
                    "seq": first + i,
                    "attempt": attempt,
                    "type": event.type,
                    "message": event.message[:2000],
                    "data": event.data,
                }
                for i, event in enumerate(events)
            ],
        )


def enqueue_status_webhook(session: Session, job: Job) -> None:
    """Queue a webhook message about the job's new status, in the same transaction."""
    kind = kinds.find(job.kind)
    if kind is not None and kind.topic is not None:
        item = JobItem.of(job).model_dump(mode="json")
        item |= {"object": kind.topic, "id": kind.public_id(job.id)}
        outbox.enqueue(session, job.tenant_id, f"{kind.topic}.{job.status}", item)


def upsert_metrics(
    session: Session, job_id: str, attempt: int, step: int, metrics: dict[str, float]
) -> None:
    """Write the metrics of a step; they replace those of the same or an earlier attempt only."""
    upsert(
        session,
        JobMetric,
        [
            {"job_id": job_id, "step": step, "name": name, "value": value, "attempt": attempt}
            for name, value in metrics.items()
        ],
        update=("value", "attempt"),
        only_if=lambda excluded: JobMetric.attempt <= excluded.attempt,
    )
