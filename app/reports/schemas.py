"""Response model of a dataset report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class DatasetReport(BaseModel):
    """A report on a dataset, tokenised for one base model."""

    object: Literal["dataset_report"] = "dataset_report"
    dataset_id: str
    base_model: str
    report: dict[str, Any]
