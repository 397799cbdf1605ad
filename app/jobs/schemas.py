"""Request and response models of jobs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.spec import Metadata, RewardJobSpec
from app.domain.training_spec import CleanLines, CleanText
from app.job_queue.job_view import JobItem, job_fields
from app.job_queue.queries import JobRow

MAX_NOTES = 10_000


class JobWarning(BaseModel):
    """A warning; docs/errors.md lists the codes."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class JobRead(JobItem):
    """A job with its spec, plan and warnings."""

    worker: str | None = Field(description="The worker that runs the job.")
    notes: str | None = Field(description="What people wrote about the job.")
    warnings: list[JobWarning]
    spec: RewardJobSpec = Field(description="As submitted, with defaults filled in.")
    plan: dict[str, Any] | None = Field(
        description="The exact arguments of LoraConfig and RewardConfig; null until the base "
        "model has been inspected."
    )

    @classmethod
    def of(cls, job: JobRow) -> Self:
        """Return the representation of a row."""
        return cls(
            **job_fields(job),
            worker=job.lease_owner.rpartition(":")[0] if job.lease_owner else None,
            notes=job.notes,
            warnings=job.warnings,
            spec=RewardJobSpec.model_validate(job.spec),
            plan=job.plan,
        )


class JobEstimate(BaseModel):
    """The size and the estimated duration of a training run."""

    trainable_parameters: int
    total_parameters: int
    steps: int = Field(
        description="Optimiser steps. A dry run with a dataset report leaves out overlong pairs."
    )
    estimated_seconds: float | None = Field(
        description="Duration of training, by the speed of the newest finished job of this "
        "base model; null if there is none."
    )


class JobPreview(JobEstimate):
    """The plan of a spec in a dry run; nothing was stored."""

    object: Literal["job_preview"] = "job_preview"
    spec: RewardJobSpec
    plan: dict[str, Any]
    adapter_config: dict[str, Any] = Field(description="Keyword arguments of peft.LoraConfig.")
    reports: dict[str, dict[str, Any]] = Field(
        description="Reports of a worker: `dataset` (lengths in tokens, duplicates, "
        "contradictions, …) and `memory` (an estimate); empty if no worker made them in time. For "
        "a large dataset they first cover a sample: `rows_looked_at` of `rows_in_all` rows."
    )
    warnings: list[JobWarning]


class JobUpdate(BaseModel):
    """The fields of a job that can be changed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "helpfulness-v4", "priority": 10}]},
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = None
    priority: int = Field(0, ge=-100, le=100, description="Can change only while the job waits.")
    metadata: Metadata = Field(default={}, description="Replaces all metadata of the job.")
    notes: Annotated[CleanLines, StringConstraints(max_length=MAX_NOTES)] | None = Field(
        None, description="Text of several lines about the job; null removes it."
    )


class JobClone(BaseModel):
    """The differences between a clone and its parent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"overrides": {"training": {"learning_rate": 5e-5}}}]},
    )
    unknown_field_hint: ClassVar[str] = 'Put parts of a spec into "overrides".'

    overrides: dict[str, Any] = Field(
        default={},
        description="Parts of a spec, merged into the parent's (RFC 7396: null removes a field).",
        examples=[{"training": {"learning_rate": 5e-5}}],
    )
    from_checkpoint: bool = Field(
        False,
        description="Resume from the parent's last checkpoint instead of training from the start.",
    )


class JobCancel(BaseModel):
    """Options of a cancel."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"keep_checkpoint": True}]},
    )

    keep_checkpoint: bool = Field(
        False, description="Keep a checkpoint, so that a clone can resume from it."
    )
