"""Spec of an evaluation, and the order that a worker receives for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from app.domain.judging.probes import MAX_PROBE_PAIRS, PROBES
from app.domain.plan import TrainingPlan
from app.domain.spec import DATASET_ID
from app.domain.strict_numbers import StrictNumbers
from app.domain.training_spec import CleanText

#: The base model with a new random head, the starting point of training.
UNTRAINED = "base:untrained"
MAX_ADAPTERS = 8
MAX_SLICES_WANTED = 32
MAX_SEED = 2**31 - 1

AdapterName = Annotated[str, StringConstraints(pattern=rf"^(ad_[0-9a-f]{{32}}|{UNTRAINED})$")]
ProbeName = Literal[
    "double_spaces", "trailing_newlines", "markdown_added", "markdown_stripped", "heading_added",
    "filler_added", "praise_added", "paragraph_repeated", "reply_truncated", "reply_empty",
    "reply_is_prompt", "prompt_swapped",
]  # fmt: skip


Overlong = Literal["as_trained", "drop", "truncate"]


class DatasetContent(BaseModel):
    """A reference to a dataset by its rows: the newest one with this ``sha256``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="The `sha256` that GET /v1/datasets shows."
    )


def _dataset_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "by id"
    return "by content" if isinstance(value, dict | DatasetContent) else None


#: The type is chosen before the value is validated, so that an error describes one type only.
NamedDataset = Annotated[
    Annotated[str, StringConstraints(pattern=DATASET_ID), Tag("by id")]
    | Annotated[DatasetContent, Tag("by content")],
    Discriminator(
        _dataset_form,
        custom_error_type="dataset_form",
        custom_error_message="Should be a dataset id (a string) or an object with its sha256",
    ),
]


class EvaluationSpec(StrictNumbers):
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
    dataset: NamedDataset = Field(
        description="The rows to score: pairs or ranked rows. A dataset by its id, or by the "
        "digest of its rows."
    )
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
    overlong: Overlong = Field(
        "as_trained",
        description="What to do with replies that exceed the `max_length` of an adapter: what its "
        "training did (leave their row out, or cut the beginning of its prompt), always leave it "
        "out, or cut the reply at the end as the runners of the benchmarks do.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)


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
    skipped_rows: int = Field(0, ge=0, description="Rows of the file that the upload skipped.")
