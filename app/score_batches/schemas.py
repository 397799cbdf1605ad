"""Request and response models of score batches."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.domain.lifecycle import Phase
from app.domain.score_batch import ScoreBatchSpec
from app.job_queue.job_view import JobFailure, JobProgress, ShownStatus, job_fields
from app.job_queue.queries import JobRow
from app.web.pagination import Timestamp


class RowsNamed(BaseModel):
    """A number of rows, and the line numbers of the first ones in the dataset."""

    rows: int
    lines: list[int]


class ScoreBatchResult(BaseModel):
    """The result of a succeeded batch."""

    rows: int = Field(description="Rows of the dataset; the score file has as many lines.")
    scored: int = Field(description="Rows that have scores.")
    left_out: dict[str, RowsNamed] = Field(
        description="Rows without scores by reason: overlong, not_rendered, no_tokens, "
        "ends_in_pad_token."
    )
    truncated: RowsNamed
    score_spec: str = Field(description="Digest of everything that the scores depend on.")
    bytes: int = Field(description="Of the file of scores.")
    sha256: str = Field(description="Of the file of scores.")


class ScoreBatchItem(BaseModel):
    """A score batch in a list."""

    object: Literal["score_batch"] = "score_batch"
    id: str
    name: str | None
    status: ShownStatus
    phase: Phase | None = Field(description="The current activity of a running batch.")
    progress: JobProgress = Field(description="Steps are scored replies.")
    base_model: str
    adapter: str
    dataset: str
    attempt: int
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    failure: JobFailure | None

    @classmethod
    def of(cls, row: JobRow) -> Self:
        """Return the representation of the batch's job."""
        return cls(**_fields(row))


class ScoreBatchRead(ScoreBatchItem):
    """A score batch with its spec and result."""

    spec: ScoreBatchSpec
    result: ScoreBatchResult | None = Field(description="Null until the batch succeeds.")

    @classmethod
    def with_result(cls, row: JobRow) -> Self:
        """Return the representation of the batch's job with its result."""
        spec = ScoreBatchSpec.model_validate(row.spec)
        return cls(**_fields(row), spec=spec, result=row.result)


def _fields(row: JobRow) -> dict[str, Any]:
    fields = job_fields(row)
    shared = ScoreBatchItem.model_fields.keys() & fields.keys()
    return {
        **{name: fields[name] for name in shared},
        "adapter": row.spec["adapter"],
        "dataset": row.spec["dataset"],
    }
