"""Response models of reports."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class DatasetReport(BaseModel):
    """A report on a dataset, tokenised for one base model."""

    object: Literal["dataset_report"] = "dataset_report"
    dataset_id: str
    base_model: str
    report: dict[str, Any]


class FullReport(BaseModel):
    """The numbers and texts of a job's report page."""

    object: Literal["job_report_page"] = "job_report_page"
    job_id: str
    name: str | None
    status: str
    finished_at: str | None
    curves: dict[str, list[list[float]]] = Field(description="(step, value) by name.")
    plots: dict[str, str] = Field(description="SVG by name.")
    model: dict[str, Any] | None = Field(
        description="Metrics on the held-out pairs, as in an evaluation; lengths are in tokens."
    )
    baselines: dict[str, dict[str, Any]]
    eval_datasets: dict[str, dict[str, float | None]] = Field(
        description="Figures of the named evaluation datasets after training."
    )
    worst_pairs: list[dict[str, Any]]
    data: dict[str, Any] | None = Field(description="The dataset report.")
    warnings: list[str]
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None
