"""What the API says about datasets."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.models import Dataset
from app.web.pagination import Timestamp


class DatasetRead(BaseModel):
    """Validated preference pairs."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str | None
    source_format: Literal["jsonl", "csv", "parquet"] = Field(description="Of the upload.")
    format: Literal["text", "conversational"]
    prompt: Literal["explicit", "implicit"]
    columns: list[str]
    has_margin: bool
    slices: dict[str, int] = Field(description="Pairs per slice label.")
    ignored_columns: list[str] = Field(description="Columns of the upload that were not kept.")
    pair_count: int
    sha256: str = Field(description="Of the canonical JSONL that jobs train on.")
    bytes: int
    upload_sha256: str = Field(description="Of the file as it was uploaded.")
    upload_bytes: int
    created_at: Timestamp

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """From its row."""
        summary = dataset.summary
        columns = ["chosen", "rejected"]
        if summary["prompt"] == "explicit":
            columns.insert(0, "prompt")
        if summary["has_margin"]:
            columns.append("margin")
        if summary["slices"]:
            columns.append("slice")
        return cls(
            id=dataset.id,
            name=dataset.name,
            source_format=dataset.source_format,
            format=summary["format"],
            prompt=summary["prompt"],
            columns=columns,
            has_margin=summary["has_margin"],
            slices=summary["slices"],
            ignored_columns=summary["ignored_columns"],
            pair_count=dataset.pair_count,
            sha256=dataset.sha256,
            bytes=dataset.bytes,
            upload_sha256=dataset.upload_sha256,
            upload_bytes=dataset.upload_bytes,
            created_at=dataset.created_at,
        )


class DatasetPreview(BaseModel):
    """The first pairs."""

    object: Literal["dataset_preview"] = "dataset_preview"
    data: list[dict[str, Any]]
