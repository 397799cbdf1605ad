"""Schemas of pushes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.domain.lifecycle import FailureCode, JobStatus
from app.models import Job
from app.web.pagination import Timestamp

REPO = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"


class PushCreate(BaseModel):
    """A new push: the target repository."""

    model_config = ConfigDict(extra="forbid")

    repo: str = Field(
        pattern=REPO,
        description="`org/name`; the repository is created if it does not exist.",
        examples=["acme/helpfulness-v3"],
    )
    private: bool = Field(
        True, description="Whether the repository is private, if the push creates it."
    )


class PushFailure(BaseModel):
    """Why a push failed."""

    code: FailureCode
    detail: str
    hint: str


class PushRead(BaseModel):
    """A push of an adapter to a hub."""

    object: Literal["push"] = "push"
    id: str
    adapter_id: str
    repo: str
    status: JobStatus
    commit: str | None = Field(description="Commit id on the hub, once the push has succeeded.")
    failure: PushFailure | None
    created_at: Timestamp
    finished_at: Timestamp | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """Build the schema from the row of the job."""
        code = FailureCode(job.failure_code) if job.failure_code else None
        failure = None
        if code is not None and job.status == JobStatus.FAILED:
            failure = PushFailure(
                code=code, detail=job.failure_detail or "", hint=code.failure.hint
            )
        return cls(
            id=job.id,
            adapter_id=job.spec["adapter_id"],
            repo=job.spec["repo"],
            status=JobStatus(job.status),
            commit=(job.result or {}).get("commit"),
            failure=failure,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )
