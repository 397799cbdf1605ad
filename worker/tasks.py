"""The one Celery task: a ticket is taken, a job is claimed and worked on, or there was none."""

from __future__ import annotations

from celery import Celery

from app.broker import TRAIN
from worker.station import Station

_station: list[Station] = []


def open_station(opened: Station) -> Station:
    """Keep the process's station for its tasks."""
    _station[:] = [opened]
    return opened


def station() -> Station:
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
