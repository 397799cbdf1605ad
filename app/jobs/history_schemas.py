"""Response models of a job's history."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.models import Checkpoint, JobEvent, JobLog
from app.web.pagination import Timestamp


class EventRead(BaseModel):
    """An event of a job."""

    object: Literal["event"] = "event"
    id: int = Field(description="Counts from 1 within the job, without gaps.")
    type: str
    message: str
    data: dict[str, Any]
    attempt: int
    at: Timestamp

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """Return the representation of a row."""
        return cls(
            id=event.seq,
            type=event.type,
            message=event.message,
            data=event.data,
            attempt=event.attempt,
            at=event.at,
        )


class MetricsRead(BaseModel):
    """Columns of equal length: ``step`` and one per metric, null where it was not logged."""

    object: Literal["metrics"] = "metrics"
    columns: dict[str, list[float | None]] = Field(
        examples=[{"step": [1, 2], "train/loss": [0.69, 0.65], "eval/accuracy": [0.5, None]}]
    )


class LogPiece(BaseModel):
    """Some lines of the trainer's output."""

    id: str = Field(description="Attempt and number of the piece; the `after` of the next request.")
    attempt: int
    at: Timestamp
    text: str

    @classmethod
    def of(cls, piece: JobLog) -> Self:
        """Return the representation of a row."""
        return cls(
            id=f"{piece.attempt}-{piece.seq}", attempt=piece.attempt, at=piece.at, text=piece.text
        )


class CheckpointRead(BaseModel):
    """A checkpoint of a job."""

    object: Literal["checkpoint"] = "checkpoint"
    id: str
    attempt: int
    step: int
    bytes: int
    metrics: dict[str, Any]
    is_best: bool
    is_current: bool = Field(description="Whether the next attempt resumes from it.")
    created_at: Timestamp

    @classmethod
    def of(cls, checkpoint: Checkpoint, current_id: str | None) -> Self:
        """Return the representation of a row."""
        return cls(
            id=checkpoint.id,
            attempt=checkpoint.attempt,
            step=checkpoint.step,
            bytes=checkpoint.bytes,
            metrics=checkpoint.metrics,
            is_best=checkpoint.is_best,
            is_current=checkpoint.id == current_id,
            created_at=checkpoint.created_at,
        )


class JobReportRead(BaseModel):
    """A report of a job."""

    object: Literal["job_report"] = "job_report"
    job_id: str
    name: str
    document: dict[str, Any]
