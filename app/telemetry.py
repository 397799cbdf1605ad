"""JSON logs with request ids, and Prometheus figures. No body and no header is ever logged."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.database import now_ms, reader
from app.domain.compiler import pairs_a_step
from app.domain.lifecycle import JobStatus
from app.models import Job, JobEvent, Worker

log = structlog.get_logger()

#: Counting all jobs by status takes 0.4 s at a million rows.
COUNTED_EVERY_SECONDS = 10.0
WORKER_SEEN_MS = 60_000
HOUR_MS = 3_600_000
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def configure_logging(stream: TextIO | None = None) -> None:
    """One JSON object a line (on stderr); the standard library's loggers too, unless taken."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Logger(stream or sys.stderr),
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Every one of our requests is logged already, with its id.
    for chatty in ("httpx", "httpx2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Logger(structlog.PrintLogger):
    """Costs a line, not a job, where its disk is full or nobody reads any more.

    As the standard library's handlers do it. Who logs may be a thread that must not end.
    """

    def msg(self, message: str) -> None:
        """Print it, if that can be done."""
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


class Telemetry:
    """The figures of one process; ``registry`` is what /metrics renders."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "plaudit_http_request_seconds",
            "Time from the request's first byte to the answer's last one.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.registry.register(_DatabaseFigures(engine))


class RequestLog:
    """Outermost: gives each request an id, times it, logs it."""

    def __init__(self, app: _App, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        status = 500

        async def send_with_id(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # The problem was sent already; the server would only log this a second time.
                log.exception("request_failed", path=scope["path"])
            finally:
                self._finish(scope, status, time.perf_counter() - started)

    def _finish(self, scope: _Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids would make a series each.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._telemetry.requests.labels(scope["method"], route, str(status)).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


def _request_id(scope: _Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode())
    return uuid.uuid4().hex


_RUNNING = select(Job.rate_step, Job.rate_at, Job.step, Job.progressed_at, Job.plan).where(
    Job.status == JobStatus.RUNNING, Job.step > Job.rate_step
)


def _pairs_per_second(job: Any) -> float:
    """Since the first step of its attempt."""
    seconds = (job.progressed_at - job.rate_at) / 1000
    steps = job.step - job.rate_step
    return float(steps * pairs_a_step(job.plan["reward"]) / seconds) if seconds > 0 else 0.0


class _DatabaseFigures(Collector):
    """Queue depth and age, jobs by status, workers: read when asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._counted_at = -COUNTED_EVERY_SECONDS

    def describe(self) -> list[Metric]:
        return []  # or registering would already ask the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("plaudit_database_up", "Whether the database answers.")
        try:
            yield from self._figures()
            up.add_metric([], 1)
        except SQLAlchemyError:
            up.add_metric([], 0)
        yield up

    def _figures(self) -> Iterator[Metric]:
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
                .where(Worker.seen_at > now_ms() - WORKER_SEEN_MS)
                .group_by(Worker.queue)
            ).all()
            lost = connection.execute(
                select(func.count()).where(
                    JobEvent.type == "worker_lost", JobEvent.at > now_ms() - HOUR_MS
                )
            ).scalar_one()
            rates = [_pairs_per_second(row) for row in connection.execute(_RUNNING)]
        queued = GaugeMetricFamily("plaudit_queue_depth", "Jobs waiting.", labels=["queue"])
        age = GaugeMetricFamily(
            "plaudit_queue_oldest_seconds", "Age of the oldest waiting job.", labels=["queue"]
        )
        for queue, count, oldest_ms in depth:
            queued.add_metric([queue], count)
            age.add_metric([queue], oldest_ms / 1000)
        slots = GaugeMetricFamily("plaudit_worker_slots", "Of live workers.", labels=["queue"])
        busy = GaugeMetricFamily("plaudit_worker_slots_busy", "Slots in use.", labels=["queue"])
        for queue, all_slots, busy_slots in workers:
            slots.add_metric([queue], all_slots)
            busy.add_metric([queue], busy_slots)
        yield from (jobs, queued, age, slots, busy)
        yield GaugeMetricFamily(
            "plaudit_leases_lost_last_hour", "Attempts whose worker was lost.", value=lost
        )
        yield GaugeMetricFamily(
            "plaudit_training_pairs_per_second", "Of all running jobs together.", value=sum(rates)
        )

    def _job_counts(self) -> dict[str, int]:
        with self._lock:
            if time.monotonic() - self._counted_at >= COUNTED_EVERY_SECONDS:
                with reader(self._engine).connect() as connection:
                    found = connection.execute(
                        select(Job.status, func.count()).group_by(Job.status)
                    ).all()
                self._counts = dict.fromkeys(JobStatus, 0) | {row[0]: row[1] for row in found}
                self._counted_at = time.monotonic()
            return self._counts
