"""Response model of a merged export."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.domain.lifecycle import JobStatus
from app.models import Job


class MergeRead(BaseModel):
    """A merged export and its status."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["merge"] = "merge"
    id: str
    source_adapter_id: str
    status: JobStatus
    adapter_id: str | None = Field(
        description="Id of the merged model, once the export has succeeded."
    )
    failure: str | None

    @classmethod
    def of(cls, job: Job, source_adapter_id: str) -> Self:
        """Build the schema from the row of the job."""
        return cls(
            id=job.id,
            source_adapter_id=source_adapter_id,
            status=JobStatus(job.status),
            adapter_id=job.adapter_id,
            failure=job.failure_detail,
        )
