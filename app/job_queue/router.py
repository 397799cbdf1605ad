"""Routes of the queue and of the workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from app.job_queue import kinds, queries
from app.job_queue.schemas import QueueItem, WaitingReason, WorkerRead
from app.job_queue.worker_api import longest_delay_ms
from app.web.dependencies import ReadEngineDep, RequireJobsRead, SettingsDep
from app.web.pagination import Page

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.get("/queue")
def get_queue(
    engine: ReadEngineDep, settings: SettingsDep, principal: RequireJobsRead
) -> Page[QueueItem]:
    """List this tenant's queued jobs, evaluations and score batches, with their positions and the
    reasons why they wait."""
    tenant_id, delay_ms = principal.tenant_id, longest_delay_ms(settings)
    with engine.connect() as connection:
        rows = queries.waiting(connection, tenant_id, settings.queue, 1000, delay_ms)
        workers = queries.live_workers(connection)
        running = queries.running_count(connection, tenant_id)
    mine = [worker for worker in workers if worker.queue == settings.queue]
    is_quota_used = running >= settings.quota_running
    data = [
        QueueItem(
            job_id=kinds.get(row.kind).public_id(row.id),
            position=row.position,
            priority=row.priority,
            queued_at=row.created_at,
            reason=_reason(row, mine, is_quota_used=is_quota_used),
        )
        for row in rows
    ]
    return Page[QueueItem](data=data, has_more=False, next=None)


@router.get("/workers")
def list_workers(engine: ReadEngineDep, principal: RequireJobsRead) -> Page[WorkerRead]:
    """List live workers with their devices and with the jobs of this tenant that they run."""
    with engine.connect() as connection:
        workers = queries.live_workers(connection)
        running = queries.running_jobs(connection, principal.tenant_id)
    data = [WorkerRead.of(worker, _run_by(worker, running)) for worker in workers]
    return Page[WorkerRead](data=data, has_more=False, next=None)


def _reason(row: Any, workers: Sequence[Any], *, is_quota_used: bool) -> WaitingReason:
    """Return why a job waits, given the workers of its queue."""
    if not workers:
        return "no_worker"
    if row.needs_gpu and not any(worker.devices for worker in workers):
        return "no_gpu"
    if is_quota_used:
        return "quota"
    if row.is_backing_off:
        return "backoff"
    if row.position <= sum(max(worker.slots - worker.busy, 0) for worker in workers):
        return "next"
    return "workers_busy" if row.position == 1 else "behind_priority"


def _run_by(worker: Any, running: Any) -> list[str]:
    # A worker's id is host-place-pid, and its leases are owned by host-place/slot:lease. It has a
    # row for each queue, so the queue tells which row a job belongs to.
    owner = worker.id.rpartition("-")[0] + "/"
    return [
        kinds.get(row.kind).public_id(row.id)
        for row in running
        if row.queue == worker.queue and row.lease_owner.startswith(owner)
    ]
