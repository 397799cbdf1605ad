"""The one Celery task: claim a job of the ticket's queue and run it, if there is one."""

from __future__ import annotations

from celery import Celery

from app.core.broker import TRAIN
from worker.supervisor.pool import WorkerPool

_pool: list[WorkerPool] = []


def set_pool(pool: WorkerPool) -> None:
    """Set the pool that this process's tasks run jobs in."""
    _pool[:] = [pool]


def get_pool() -> WorkerPool:
    """Return the pool of this process; ``set_pool`` must have been called."""
    return _pool[0]


def register(app: Celery) -> None:
    """Declare the task on an application."""

    @app.task(name=TRAIN, bind=True)  # type: ignore[untyped-decorator]
    def train(self) -> None:  # type: ignore[no-untyped-def]
        get_pool().run_one(self.request.delivery_info["routing_key"])
