"""States of workers, and queries on live workers."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.core.database import now_ms
from app.models import Worker

#: Milliseconds after which a worker that did not update its rows is treated as gone. Workers update
#: them every 5 s.
WORKER_GONE_MS = 30_000


class WorkerState(StrEnum):
    """Whether a worker claims jobs."""

    READY = "ready"
    DRAINING = "draining"  # is shutting down
    UNHEALTHY = "unhealthy"  # broke several jobs in a row and tests its machine


def is_alive() -> ColumnElement[bool]:
    """Return the condition that a worker updated its row lately.

    A time far in the future was written before the database's clock stepped back.
    """
    return Worker.seen_at.between(now_ms() - WORKER_GONE_MS, now_ms() + WORKER_GONE_MS)


def has_gpu_worker(session: Session, queue: str) -> bool:
    """Whether a live worker of this queue has a GPU."""
    devices = select(Worker.devices).where(is_alive(), Worker.queue == queue)
    return any(session.scalars(devices))
