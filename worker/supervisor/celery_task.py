"""The one Celery task: a ticket is taken, a job is claimed and worked on, or there was none."""

from __future__ import annotations

from celery import Celery

from app.core.broker import TRAIN
from worker.supervisor.pool import WorkerPool

_station: list[WorkerPool] = []


def open_station(opened: WorkerPool) -> WorkerPool:
    """Keep the process's station for its tasks."""
    _station[:] = [opened]
    return opened


def station() -> WorkerPool:
    """The process's station; tasks run only after ``open_station``."""
    return _station[0]


def work(queue: str) -> None:
    """Claim from this queue and supervise to the end."""
    station().run_one(queue)


def register(app: Celery) -> None:
    """Declare the task on an application."""

    @app.task(name=TRAIN, bind=True)  # type: ignore[untyped-decorator]
    def train(self) -> None:  # type: ignore[no-untyped-def]
        work(self.request.delivery_info["routing_key"])
