"""Repairs the state after crashes and deletes what is no longer needed.

It takes back jobs whose lease nobody renews, issues missing tickets, and deletes checkpoints,
expired jobs and uploads, and unreferenced blobs. Its only state is what it has observed, so any
number of processes may run it concurrently.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.core.broker import Tickets, queues
from app.core.database import now_ms, reader, transaction
from app.core.settings import Settings
from app.datasets import part_uploads
from app.domain.lifecycle import TERMINAL, JobStatus
from app.job_queue import checkpoints, guards, kinds, transitions, worker_api
from app.job_queue.kinds import JobKind
from app.job_queue.lease_watch import LeaseWatch, SeenLease
from app.job_queue.workers import WorkerState, is_alive
from app.models import Job, Worker
from app.storage import blobs
from app.storage.free_space import SpaceReserve
from app.usage import service as usage

log = structlog.get_logger()

#: Seconds between two collections.
COLLECT_SECONDS = 600
#: Checkpoints, blobs and jobs deleted in one round: a round must not delay the sweep for long.
COLLECT_LIMIT = 100
WORKER_RETENTION_MS = 86_400_000


class Reconciler(threading.Thread):
    """Runs a round every ``reconcile_seconds``."""

    def __init__(self, engine: Engine, settings: Settings, tickets: Tickets) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._engine, self._settings, self._tickets = engine, settings, tickets
        self._stopping = threading.Event()
        self._reserve = SpaceReserve(engine)
        self._lease_watch = LeaseWatch(settings)
        self._collect_from = time.monotonic() + COLLECT_SECONDS

    def run(self) -> None:
        """Run until stopped; log errors and try again in the next round."""
        while not self._stopping.wait(self._settings.reconcile_seconds):
            try:
                self._round()
            except Exception as error:
                if isinstance(error, SQLAlchemyError):
                    # After an outage of the database, workers get time to renew their leases.
                    self._lease_watch.forget()
                log.warning("reconcile_failed", exc_info=True)

    def stop(self) -> None:
        """End after the current round."""
        self._stopping.set()
        self.join(timeout=10)

    def _round(self) -> None:
        if lost := self._lease_watch.look(self._engine):
            requeue_lost(self._engine, self._settings, lost)
        if time.monotonic() >= self._collect_from:
            # Set this first: if a collection fails, the next rounds must still issue tickets.
            self._collect_from = time.monotonic() + COLLECT_SECONDS
            if collect(self._engine):
                self._collect_from = 0.0
        self._reserve.tend()
        issue_missing(self._engine, self._settings, self._tickets)


def requeue_lost(
    engine: Engine,
    settings: Settings,
    lost: Sequence[SeenLease] = (),
    owner_prefix: str | None = None,
) -> list[Job]:
    """Take back jobs whose leases are ``lost``, or all jobs of a slot that is known to be dead."""
    with transaction(engine) as session:
        swept = transitions.sweep(
            session,
            lost=lost,
            backoff_ms=0 if owner_prefix else worker_api.retry_delay_ms(settings, 0),
            max_crashes=settings.max_crashes,
            max_stalls=settings.max_stalls,
            owner_prefix=owner_prefix,
        )
    for job in swept:
        log.warning("lease_swept", job_id=job.id, attempt=job.attempt, status=job.status)
    return swept


def issue_missing(engine: Engine, settings: Settings, tickets: Tickets) -> None:
    """Issue tickets so that each idle slot has one, as long as jobs wait."""
    for name in queues(settings):
        with reader(engine).connect() as connection:
            waiting = connection.execute(
                select(func.count()).select_from(
                    select(Job.id)
                    .where(
                        Job.status == JobStatus.QUEUED,
                        Job.queue == name,
                        guards.is_due(Job, worker_api.longest_delay_ms(settings)),
                    )
                    .limit(1000)
                    .subquery()
                )
            ).scalar_one()
            idle = connection.execute(
                select(func.coalesce(func.sum(Worker.slots - Worker.busy), 0)).where(
                    Worker.queue == name,
                    Worker.state == WorkerState.READY,
                    is_alive(),
                )
            ).scalar_one()
        need = min(waiting, idle)
        if need > 0:
            for _ in range(need - tickets.backlog(name)):
                tickets.issue(name)


def collect(engine: Engine) -> bool:
    """Delete some remains of finished jobs; return whether there may be more."""
    dropped = checkpoints.drop_finished(engine, COLLECT_LIMIT)
    expired = part_uploads.drop_expired(engine, COLLECT_LIMIT)
    usage.record_stored_bytes(engine)
    removed = blobs.collect_garbage(engine, COLLECT_LIMIT)
    deleted = max(delete_expired(engine, kind, COLLECT_LIMIT) for kind in kinds.KINDS.values())
    with transaction(engine) as session:
        session.execute(delete(Worker).where(Worker.seen_at < now_ms() - WORKER_RETENTION_MS))
    log.info("garbage_collected", checkpoints=dropped, uploads=expired, blobs=removed, jobs=deleted)
    return COLLECT_LIMIT in (dropped, expired, removed, deleted)


def delete_expired(engine: Engine, kind: JobKind, limit: int) -> int:
    """Delete finished jobs of a kind after its retention; return how many were found."""
    if kind.retention_ms is None:
        return 0
    expired = (
        Job.kind == kind.name,
        Job.status.in_(TERMINAL),
        Job.finished_at < now_ms() - kind.retention_ms,
    )
    with reader(engine).connect() as connection:
        old = list(connection.scalars(select(Job.id).where(*expired).order_by(Job.id).limit(limit)))
    if old:
        with transaction(engine) as session:
            session.execute(delete(Job).where(Job.id.in_(old)))
    return len(old)
