"""Response models of datasets."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.datasets.containers import FileFormat
from app.models import Dataset
from app.web.pagination import Timestamp


class SkippedRowsRead(BaseModel):
    """Rows that were skipped for one reason."""

    code: str = Field(
        description="Code of the row's error, or `tie` if neither response is better."
    )
    count: int
    lines: list[int] = Field(description="Line numbers of the first of them.")


class DatasetWarningRead(BaseModel):
    """Warning about a dataset."""

    code: str
    message: str
    lines: list[int] = Field([], description="Line numbers of the first affected rows.")


class DatasetRead(BaseModel):
    """Validated preference pairs."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str | None
    source_format: FileFormat = Field(description="File format of the upload.")
    shape: str = Field(description="Recognised shape of the upload; docs/data.md lists all shapes.")
    row_form: Literal["pairs", "ranked"] = Field(
        description="pairs: one chosen and one rejected reply per row; ranked: several ranked "
        "replies per row."
    )
    format: Literal["text", "conversational"]
    prompt: Literal["explicit", "implicit"]
    columns: list[str] = Field(description="Columns of the stored rows.")
    has_margin: bool
    slices: dict[str, int] = Field(description="Number of rows by slice label.")
    ignored_columns: list[str] = Field(description="Columns of the upload that were not stored.")
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        description="Variables of the chat template that the upload sets for all rows. Those of a "
        "job and of a row take precedence."
    )
    skipped: list[SkippedRowsRead] = Field(description="Skipped rows by reason.")
    warnings: list[DatasetWarningRead]
    row_count: int
    pair_count: int = Field(description="Number of pairs: at least the number of rows.")
    sha256: str = Field(description="SHA-256 of the canonical JSONL that jobs train on.")
    bytes: int
    upload_sha256: str = Field(description="SHA-256 of the file as it was uploaded.")
    upload_bytes: int
    origin: str | None = Field(
        description="Source of an imported dataset: `hub:org/name@commit#split`."
    )
    created_at: Timestamp

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Create the response from a database row; summaries of earlier versions lack some keys."""
        summary = dataset.summary
        is_ranked = summary.get("row_form") == "ranked"
        is_there = {
            "prompt": summary["prompt"] == "explicit",
            "chosen": not is_ranked,
            "rejected": not is_ranked,
            "replies": is_ranked,
            "margin": summary["has_margin"],
            "slice": bool(summary["slices"]),
            "tools": summary.get("has_tools", False),
        }
        return cls(
            id=dataset.id,
            name=dataset.name,
            source_format=dataset.source_format,
            shape=summary.get("shape", "pairs"),
            row_form="ranked" if is_ranked else "pairs",
            format=summary["format"],
            prompt=summary["prompt"],
            columns=[name for name, there in is_there.items() if there],
            has_margin=summary["has_margin"],
            slices=summary["slices"],
            ignored_columns=summary["ignored_columns"],
            chat_template_kwargs=summary.get("chat_template_kwargs", {}),
            skipped=summary.get("skipped", []),
            warnings=summary.get("warnings", []),
            row_count=summary.get("row_count", dataset.pair_count),
            pair_count=dataset.pair_count,
            sha256=dataset.sha256,
            bytes=dataset.bytes,
            upload_sha256=summary.get("upload_sha256", dataset.upload_identity),
            upload_bytes=dataset.upload_bytes,
            origin=summary.get("origin"),
            created_at=dataset.created_at,
        )


class DatasetPreview(BaseModel):
    """The first rows of a dataset."""

    object: Literal["dataset_preview"] = "dataset_preview"
    data: list[dict[str, Any]]
