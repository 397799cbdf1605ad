"""What the API says about jobs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.lifecycle import TERMINAL, Desired, FailureCategory, FailureCode, JobStatus, Phase
from app.domain.spec import CleanText, MetadataKey, MetadataValue, RewardJobSpec
from app.jobs.reading import JobRow
from app.shapes import Timestamp

ShownStatus = Literal[
    "queued", "running", "pausing", "cancelling", "paused", "succeeded", "failed", "cancelled"
]


class JobProgress(BaseModel):
    """How far a job is."""

    step: int | None
    total_steps: int | None
    epoch: float | None
    seconds_left: float | None = Field(description="An estimate; null until one can be made.")

    @classmethod
    def of(cls, job: JobRow) -> Self:
        """From its row. The rate is that of the present attempt, from its first step on."""
        seconds_left = None
        has_rate = None not in (job.step, job.total_steps, job.rate_step, job.rate_at)
        if job.status == JobStatus.RUNNING and has_rate and job.step > job.rate_step:
            seconds = (job.progressed_at - job.rate_at) / 1000
            left = max(job.total_steps - job.step, 0)
            seconds_left = round(seconds / (job.step - job.rate_step) * left, 1)
        return cls(
            step=job.step, total_steps=job.total_steps, epoch=job.epoch, seconds_left=seconds_left
        )


class JobFailure(BaseModel):
    """Why a job failed and what to do next."""

    category: FailureCategory
    code: FailureCode
    step: int | None
    detail: str
    hint: str


class JobWarning(BaseModel):
    """Something worth knowing that stopped nobody; the codes are in docs/errors.md."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class JobItem(BaseModel):
    """A job in a list."""

    object: Literal["job"] = "job"
    id: str
    name: str | None
    status: ShownStatus
    phase: Phase | None = Field(description="What a running job does right now.")
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
        """From its row."""
        return cls(**_fields(job))


class JobRead(JobItem):
    """A job with everything."""

    worker: str | None = Field(description="Who runs it now.")
    warnings: list[JobWarning]
    spec: RewardJobSpec = Field(description="As asked, with every default filled in.")
    plan: dict[str, Any] | None = Field(
        description="The exact arguments of LoraConfig and RewardConfig; null until the base "
        "model has been inspected."
    )

    @classmethod
    def of(cls, job: JobRow) -> Self:
        """From its row."""
        return cls(
            **_fields(job),
            worker=job.lease_owner.rpartition(":")[0] if job.lease_owner else None,
            warnings=job.warnings,
            spec=RewardJobSpec.model_validate(job.spec),
            plan=job.plan,
        )


class JobEstimate(BaseModel):
    """How much a plan trains, and how long that may take."""

    trainable_parameters: int
    total_parameters: int
    steps: int = Field(
        description="Optimiser steps; without the overlong pairs where a dry run has a report on "
        "the data."
    )
    estimated_seconds: float | None = Field(
        description="Of training, by the pace of the newest finished job of this base model; "
        "null when there is none."
    )


class JobPreview(JobEstimate):
    """What a spec would become; nothing was stored."""

    object: Literal["job_preview"] = "job_preview"
    spec: RewardJobSpec
    plan: dict[str, Any]
    adapter_config: dict[str, Any] = Field(description="Keyword arguments of peft.LoraConfig.")
    reports: dict[str, dict[str, Any]] = Field(
        description="What a worker found: `dataset` (lengths in tokens, duplicates, "
        "contradictions, …) and `memory` (an estimate); empty if none had time."
    )
    warnings: list[JobWarning]


class JobUpdate(BaseModel):
    """What of a job can be changed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "helpfulness-v4", "priority": 10}]},
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = None
    priority: int = Field(0, ge=-100, le=100, description="While the job waits.")
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default={}, max_length=16, description="Replaces all of it."
    )


class JobClone(BaseModel):
    """How a clone differs from its parent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"overrides": {"training": {"learning_rate": 5e-5}}}]},
    )
    unknown_field_hint: ClassVar[str] = 'Parts of a spec go into "overrides".'

    overrides: dict[str, Any] = Field(
        default={},
        description="Parts of a spec, merged into the parent's (RFC 7396: null takes a field out).",
        examples=[{"training": {"learning_rate": 5e-5}}],
    )
    from_checkpoint: bool = Field(
        False, description="Go on from the parent's last checkpoint instead of from the start."
    )


class JobCancel(BaseModel):
    """How to cancel."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"keep_checkpoint": True}]},
    )

    keep_checkpoint: bool = Field(False, description="So that a clone can go on from it.")


def shown_status(status: str, desired: str) -> ShownStatus:
    """A running job that was asked to stop says so."""
    if status == JobStatus.RUNNING and desired != Desired.RUN:
        return "cancelling" if desired == Desired.CANCEL else "pausing"
    return status  # type: ignore[return-value]


def etag(job: JobRow) -> str:
    """Weak: the same tag means the same job, as far as anybody can see."""
    return f'W/"{job.version}-{job.event_seq}"'


def is_over(status: str) -> bool:
    """Whether a job in this status never changes again."""
    return status in TERMINAL


def _fields(job: JobRow) -> dict[str, Any]:
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
