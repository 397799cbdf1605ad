"""Response models of the queue and the workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.models import Worker
from app.web.pagination import Timestamp

WaitingReason = Literal[
    "no_worker", "no_gpu", "quota", "backoff", "workers_busy", "behind_priority", "next"
]


class QueueItem(BaseModel):
    """A queued job, evaluation or score batch, and the reason why it waits."""

    job_id: str = Field(
        description="Id of a job (`job_…`), an evaluation (`eval_…`) or a score batch (`batch_…`)."
    )
    position: int = Field(description="Counts from 1, over the jobs of all kinds and tenants.")
    priority: int
    queued_at: Timestamp
    reason: WaitingReason


class WorkerCheck(BaseModel):
    """The result of a check of a worker's machine."""

    check: str
    status: Literal["passed", "failed", "left_out"]
    detail: str


class WorkerRead(BaseModel):
    """A live worker."""

    object: Literal["worker"] = "worker"
    id: str
    host: str
    queue: str
    state: str
    slots: int
    busy: int
    devices: list[dict[str, Any]]
    versions: dict[str, Any]
    doctor: list[WorkerCheck] = Field(
        description="The quick checks of `plaudit doctor`, which run when the worker starts. Empty "
        "until they have ended."
    )
    jobs: list[str] = Field(
        description="Ids of this tenant's jobs, evaluations and score batches that the worker runs."
    )
    started_at: Timestamp
    seen_at: Timestamp

    @classmethod
    def of(cls, worker: Worker, jobs: Sequence[str]) -> Self:
        """Return the representation of a row."""
        return cls(
            id=worker.id,
            host=worker.host,
            queue=worker.queue,
            state=worker.state,
            slots=worker.slots,
            busy=worker.busy,
            devices=worker.devices,
            versions=worker.versions,
            doctor=[WorkerCheck.model_validate(result) for result in worker.doctor or ()],
            jobs=list(jobs),
            started_at=worker.started_at,
            seen_at=worker.seen_at,
        )
