"""Prometheus metrics of one API process and of the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.core.database import now_ms, reader
from app.domain.lifecycle import JobStatus
from app.domain.training_arguments import RewardArguments
from app.job_queue.workers import is_alive
from app.models import Job, JobEvent, Worker
from app.web.shared_result import SharedResult

#: Jobs by status are counted at most this often: it takes 0.4 s with a million rows.
COUNT_INTERVAL_SECONDS = 10.0
HOUR_MS = 3_600_000
#: Time for which a rendered page of metrics is reused.
PAGE_SECONDS = 1.0


class Telemetry:
    """The metrics of one process. ``registry`` is what /metrics renders."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "plaudit_http_request_seconds",
            "Time from the first byte of the request to the last byte of the response.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.registry.register(_DatabaseMetrics(engine))
        self.scoring_waiting = Gauge(
            "plaudit_scoring_waiting",
            "Scoring requests that this process holds.",
            registry=self.registry,
        )
        #: The metrics in the Prometheus text format. Rendering takes 0.1 s of processor time.
        self.page = SharedResult(partial(generate_latest, self.registry), PAGE_SECONDS)


_RUNNING = select(Job.rate_step, Job.rate_at, Job.step, Job.progressed_at, Job.plan).where(
    Job.status == JobStatus.RUNNING, Job.step > Job.rate_step
)


def _pairs_per_second(job: Any) -> float:
    """Return the training speed of a job since the first step of its attempt."""
    seconds = (job.progressed_at - job.rate_at) / 1000
    steps = job.step - job.rate_step
    pairs_per_step = RewardArguments.model_validate(job.plan["reward"]).pairs_per_step
    return float(steps * pairs_per_step / seconds) if seconds > 0 else 0.0


class _DatabaseMetrics(Collector):
    """Metrics of jobs, queues and workers, queried from the database at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._counted_at = -COUNT_INTERVAL_SECONDS

    def describe(self) -> list[Metric]:
        return []  # without this method, registering would query the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("plaudit_database_up", "Whether the database responds.")
        try:
            yield from self._query()
            up.add_metric([], 1)
        except SQLAlchemyError:
            up.add_metric([], 0)
        yield up

    def _query(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("plaudit_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._job_counts().items():
            jobs.add_metric([status], count)
        with reader(self._engine).connect() as connection:
            depth = connection.execute(
                select(Job.queue, func.count(), now_ms() - func.min(Job.created_at))
                .where(Job.status == JobStatus.QUEUED)
                .group_by(Job.queue)
            ).all()
            workers = connection.execute(
                select(Worker.queue, func.sum(Worker.slots), func.sum(Worker.busy))
                .where(is_alive())
                .group_by(Worker.queue)
            ).all()
            lost = connection.execute(
                select(func.count()).where(
                    JobEvent.type == "worker_lost", JobEvent.at > now_ms() - HOUR_MS
                )
            ).scalar_one()
            rates = [_pairs_per_second(row) for row in connection.execute(_RUNNING)]
        queued = GaugeMetricFamily("plaudit_queue_depth", "Queued jobs.", labels=["queue"])
        age = GaugeMetricFamily(
            "plaudit_queue_oldest_seconds", "Age of the oldest queued job.", labels=["queue"]
        )
        for queue, count, oldest_ms in depth:
            queued.add_metric([queue], count)
            age.add_metric([queue], oldest_ms / 1000)
        slots = GaugeMetricFamily(
            "plaudit_worker_slots", "Slots of live workers.", labels=["queue"]
        )
        busy = GaugeMetricFamily("plaudit_worker_slots_busy", "Slots in use.", labels=["queue"])
        for queue, all_slots, busy_slots in workers:
            slots.add_metric([queue], all_slots)
            busy.add_metric([queue], busy_slots)
        yield from (jobs, queued, age, slots, busy)
        yield GaugeMetricFamily(
            "plaudit_leases_lost_last_hour", "Attempts whose worker was lost.", value=lost
        )
        yield GaugeMetricFamily(
            "plaudit_training_pairs_per_second",
            "Pairs per second of all running jobs together.",
            value=sum(rates),
        )

    def _job_counts(self) -> dict[str, int]:
        with self._lock:
            if time.monotonic() - self._counted_at >= COUNT_INTERVAL_SECONDS:
                with reader(self._engine).connect() as connection:
                    found = connection.execute(
                        select(Job.status, func.count()).group_by(Job.status)
                    ).all()
                self._counts = dict.fromkeys(JobStatus, 0) | {row[0]: row[1] for row in found}
                self._counted_at = time.monotonic()
            return self._counts
