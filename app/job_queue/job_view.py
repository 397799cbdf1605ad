"""The representation of a job that lists, single jobs and webhooks share."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.domain.lifecycle import (
    TERMINAL,
    DesiredState,
    FailureCategory,
    FailureCode,
    JobStatus,
    Phase,
)
from app.job_queue.queries import JobRow
from app.web.pagination import Timestamp

ShownStatus = Literal[
    "queued", "running", "pausing", "cancelling", "paused", "succeeded", "failed", "cancelled"
]


class JobProgress(BaseModel):
    """The progress of a job."""

    step: int | None
    total_steps: int | None
    epoch: float | None
    rows_done: int | None = Field(
        description="Rows of the datasets that are tokenised; null outside of the phase "
        "`tokenizing`, or while it has just begun."
    )
    rows_total: int | None
    seconds_left: float | None = Field(
        description="Estimated: of the phase `tokenizing`, or of training; null until the first "
        "step of an attempt."
    )

    @classmethod
    def of(cls, job: JobRow) -> Self:
        """Return the progress of a job. The rate is that of the current attempt."""
        seconds_left = None
        has_rate = None not in (job.step, job.total_steps, job.rate_step, job.rate_at)
        if job.status == JobStatus.RUNNING and has_rate and job.step > job.rate_step:
            seconds = (job.progressed_at - job.rate_at) / 1000
            left = max(job.total_steps - job.step, 0)
            seconds_left = round(seconds / (job.step - job.rate_step) * left, 1)
        rows = (job.status == JobStatus.RUNNING and job.rows) or {}
        return cls(
            step=job.step,
            total_steps=job.total_steps,
            epoch=job.epoch,
            rows_done=rows.get("done"),
            rows_total=rows.get("total"),
            seconds_left=rows.get("seconds_left", seconds_left),
        )


class JobFailure(BaseModel):
    """Why a job failed and what to do next."""

    category: FailureCategory
    code: FailureCode
    step: int | None
    detail: str
    hint: str


class JobItem(BaseModel):
    """A job in a list."""

    object: Literal["job"] = "job"
    id: str
    name: str | None
    status: ShownStatus
    phase: Phase | None = Field(description="The current activity of a running job.")
    progress: JobProgress
    base_model: str
    priority: int
    attempt: int
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    adapter_id: str | None
    parent_job_id: str | None
    failure: JobFailure | None
    metadata: dict[str, str]

    @classmethod
    def of(cls, job: JobRow) -> Self:
        """Return the representation of a row."""
        return cls(**job_fields(job))


def shown_status(status: str, desired: str) -> ShownStatus:
    """Return the public status: a running job that should stop is cancelling or pausing."""
    if status == JobStatus.RUNNING and desired != DesiredState.RUN:
        return "cancelling" if desired == DesiredState.CANCEL else "pausing"
    return status  # type: ignore[return-value]


def etag(job: JobRow) -> str:
    """Return a weak entity tag that changes with every visible change of the job."""
    return f'W/"{job.version}-{job.event_seq}"'


def is_finished(status: str) -> bool:
    """Return whether a job in this status has finished."""
    return status in TERMINAL


def job_fields(job: JobRow) -> dict[str, Any]:
    """Return the fields of ``JobItem``."""
    return {
        "id": job.id,
        "name": job.name,
        "status": shown_status(job.status, job.desired),
        "phase": job.phase,
        "progress": JobProgress.of(job),
        "base_model": job.base_model,
        "priority": job.priority,
        "attempt": job.attempt,
        "queued_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "adapter_id": job.adapter_id,
        "parent_job_id": job.parent_job_id,
        "failure": _failure(job),
        "metadata": job.labels,
    }


def _failure(job: JobRow) -> JobFailure | None:
    if job.status != JobStatus.FAILED or job.failure_code is None:
        return None
    code = FailureCode(job.failure_code)
    return JobFailure(
        category=code.failure.category,
        code=code,
        step=job.failure_step,
        detail=job.failure_detail or "",
        hint=code.failure.hint,
    )
