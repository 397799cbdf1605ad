"""Spec of an evaluation, and the order that a worker receives for it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.judging.probes import MAX_PROBE_PAIRS, PROBES
from app.domain.plan import TrainingPlan
from app.domain.spec import DATASET_ID
from app.domain.training_spec import CleanText

#: The base model with a new random head, the starting point of training.
UNTRAINED = "base:untrained"
MAX_ADAPTERS = 8
MAX_SLICES_WANTED = 32

AdapterName = Annotated[str, StringConstraints(pattern=rf"^(ad_[0-9a-f]{{32}}|{UNTRAINED})$")]
ProbeName = Literal[
    "double_spaces", "trailing_newlines", "markdown_added", "markdown_stripped", "heading_added",
    "filler_added", "praise_added", "paragraph_repeated", "reply_truncated", "reply_empty",
    "reply_is_prompt", "prompt_swapped",
]  # fmt: skip


class EvaluationSpec(BaseModel):
    """Request to evaluate adapters on a dataset."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"adapters": [f"ad_{'0' * 32}"], "dataset": f"ds_{'0' * 32}", "probes": []}
            ]
        },
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = None
    adapters: list[AdapterName] = Field(
        min_length=1,
        max_length=MAX_ADAPTERS,
        description="Adapters of one base model. `base:untrained`, the base model with a random "
        "head, is always evaluated as well.",
    )
    dataset: str = Field(pattern=DATASET_ID, description="The rows to score: pairs or ranked rows.")
    suite: Annotated[CleanText, StringConstraints(max_length=64)] | None = Field(
        None, description="A benchmark of GET /v1/suites whose rows the dataset has."
    )
    slices: (
        Annotated[
            list[Annotated[CleanText, StringConstraints(max_length=64)]],
            Field(max_length=MAX_SLICES_WANTED),
        ]
        | None
    ) = Field(None, description="Slices to report; null: the 32 largest.")
    probes: list[ProbeName] = Field(
        default_factory=lambda: list(get_args(ProbeName)),
        max_length=len(PROBES),
        description="Probes for reward hacking; all by default, `[]` for none.",
    )
    probe_pairs: int = Field(
        100, ge=1, le=MAX_PROBE_PAIRS, description="Number of rows for probes, drawn with the seed."
    )
    overlong: Literal["drop", "truncate"] = Field(
        "drop",
        description="What to do with replies that exceed the `max_length` of an adapter: drop "
        "their row, or truncate them at the end as the benchmarks' own code does.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1)


class JudgedAdapter(BaseModel):
    """An adapter whose files are in ``directory`` of the work directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    directory: str
    plan: TrainingPlan
    train_file: str | None = Field(description="None once the training dataset is deleted.")


class EvaluationOrder(BaseModel):
    """Input of a trainer for an evaluation, without the base model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: EvaluationSpec
    adapters: list[JudgedAdapter] = Field(min_length=1)
    dataset_sha256: str
    dataset_format: Literal["text", "conversational"]
