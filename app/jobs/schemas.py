"""What the API says about jobs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.spec import CleanText, Metadata, RewardJobSpec
from app.job_queue.job_view import JobItem, job_fields
from app.job_queue.queries import JobRow


class JobWarning(BaseModel):
    """Something worth knowing that stopped nobody; the codes are in docs/errors.md."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


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
            **job_fields(job),
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
    metadata: Metadata = Field(default={}, description="Replaces all of it.")


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
