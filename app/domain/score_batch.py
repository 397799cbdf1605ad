"""Spec of a job that scores a dataset, and the order that a worker receives for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.plan import TrainingPlan
from app.domain.spec import DATASET_ID
from app.domain.training_spec import CleanText

SCORES_FILE = "scores.jsonl"


class ScoreBatchSpec(BaseModel):
    """Request to score the rows of a dataset with an adapter."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"adapter": f"ad_{'0' * 32}", "dataset": f"ds_{'0' * 32}"}]
        },
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = None
    adapter: str = Field(pattern=r"^ad_[0-9a-f]{32}$", description="Id of an adapter.")
    dataset: str = Field(pattern=DATASET_ID, description="The rows to score: pairs or ranked rows.")
    overlong: Literal["drop", "truncate"] = Field(
        "drop",
        description="What to do with replies that exceed the adapter's `max_length`: give their "
        "row no scores but a reason, or cut them at the end.",
    )


class ScoreBatchOrder(BaseModel):
    """Input of a trainer for scoring a dataset, without the base model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: ScoreBatchSpec
    directory: str = Field(description="Directory of the adapter's files, in the work directory.")
    plan: TrainingPlan = Field(description="The plan of the adapter's training.")
    dataset_sha256: str
    score_spec: str
