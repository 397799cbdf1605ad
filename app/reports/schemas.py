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


class EvalDatasetReport(BaseModel):
    """What a job's report says of a named evaluation dataset, after training."""

    pairs: float | None
    left_out: float | None = Field(description="Share of the pairs that are not evaluated.")
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    length_baseline: float | None
    plots: dict[str, str] = Field(description="SVG by name.")
    model: dict[str, Any] | None = Field(description="Metrics, as of the held-out pairs.")
    baselines: dict[str, dict[str, Any]]
    worst_pairs: list[dict[str, Any]]


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
    eval_datasets: dict[str, EvalDatasetReport] = Field(
        description="The same of each named evaluation dataset; its curves are with the others."
    )
    worst_pairs: list[dict[str, Any]]
    data: dict[str, Any] | None = Field(description="The dataset report.")
    warnings: list[str]
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None
