"""What a user may ask for. docs/defaults.md compares the defaults with those of TRL and PEFT."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
)
from pydantic_core import PydanticCustomError

BASE_MODEL_ID = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DATASET_ID = r"^ds_[0-9a-f]{32}$"
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
#: PostgreSQL stores no NUL in text and JSON; lone surrogates pydantic refuses in any text.
#: Goes first inside Annotated: as a later item it would be ignored.
CleanText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]

#: Any text is let through to the catalogue, which knows what was meant by a hub repository's name.
BaseModelName = Annotated[CleanText, StringConstraints(min_length=1, max_length=200)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvalFraction(_Spec):
    """Hold out a share of the training pairs."""

    fraction: float = Field(gt=0, lt=1, description="Share of the training pairs, 0 to 1.")


def _evaluation_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "by id"
    return "held out" if isinstance(value, dict | EvalFraction) else None


#: The form is chosen before it is validated, so that errors speak of one form only.
Evaluation = Annotated[
    Annotated[str, StringConstraints(pattern=DATASET_ID), Tag("by id")]
    | Annotated[EvalFraction, Tag("held out")],
    Discriminator(
        _evaluation_form,
        custom_error_type="eval_dataset_form",
        custom_error_message="Should be a dataset's id (a string) or an object with a fraction",
    ),
]


class LoraSpec(_Spec):
    """The adapter. Its task type is always SEQ_CLS; the head is always trained and saved."""

    task_type: Literal["SEQ_CLS"] = Field("SEQ_CLS", description="Not a choice.")
    r: int = Field(16, ge=1, le=1024, description="Rank.")
    alpha: int = Field(32, ge=1, le=65536, description="Scale: alpha / r.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Applies to the LoRA layers only; the dropout of the base model is always off. "
        "More than 0 rules out the fast engine.",
    )
    target_modules: Literal["auto", "all-linear"] | list[ModuleName] = Field(
        "auto",
        description="'auto' and 'all-linear': every linear layer of the backbone (attention "
        "projections only on mixture-of-experts); or names, each of which must match.",
    )
    modules_to_save: list[ModuleName] = Field(
        default=[],
        max_length=32,
        description="Trained and saved in full besides the head, which always is.",
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA.")
    init: Literal["default", "gaussian", "orthogonal"] = Field("default")

    @field_validator("task_type", mode="before")
    @classmethod
    def _task_type_is_not_a_choice(cls, value: Any) -> Any:
        if value != "SEQ_CLS":
            raise PydanticCustomError(
                "task_type_fixed",
                "task_type is always SEQ_CLS: with any other the reward head would be left "
                "random and out of the adapter. Leave the field out.",
            )
        return value

    @field_validator("modules_to_save", mode="before")
    @classmethod
    def _head_stays(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError(
                "head_removed",
                "modules_to_save cannot be null: the reward head is always trained and saved. "
                "Give a list of further modules, or leave the field out.",
            )
        return value

    @field_validator("target_modules")
    @classmethod
    def _targets_are_named(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and not 1 <= len(value) <= 2048:
            raise PydanticCustomError(
                "target_modules_empty",
                "target_modules needs 1 to 2048 names, or 'auto' or 'all-linear'.",
            )
        return value


class EarlyStopping(_Spec):
    """Stop when eval loss has not improved; the best checkpoint becomes the adapter."""

    patience: int = Field(3, ge=1, le=1000, description="Evaluations without improvement.")
    min_delta: float = Field(0.0, ge=0, le=10, description="What counts as improvement.")


class TrainingSpec(_Spec):
    """How to train. Batch sizes count pairs: the forward pass sees two sequences a pair."""

    epochs: float = Field(1.0, gt=0, le=1000)
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Overrides epochs.")
    learning_rate: float = Field(1e-4, gt=0, le=1)
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1000)
    batch_size: int = Field(8, ge=1, le=4096, description="Pairs an optimiser step (effective).")
    per_device_batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto", description="Pairs a forward pass; must divide batch_size."
    )
    max_length: int = Field(1024, ge=8, le=1_048_576, description="Tokens of prompt and reply.")
    overlong: Literal["drop", "error"] = Field("drop", description="Pairs over max_length.")
    center_rewards_coefficient: float | None = Field(None, gt=0, le=1)
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, fp32 on CPU."
    )
    engine: Literal["auto", "shared_prefix", "stock"] = Field(
        "auto", description="auto: the fast engine where it is exact, TRL's own otherwise."
    )
    eval_steps: int | None = Field(None, ge=1, description="Besides the start and the end.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Optimiser steps.")
    logging_steps: int = Field(1, ge=1, le=10_000)
    early_stopping: EarlyStopping | None = None
    seed: int = Field(42, ge=0, le=2**32 - 1)


class Resources(_Spec):
    """What the job may use."""

    gpus: Literal[0, 1] = Field(1, description="0: never a GPU; 1: one, where there is one.")
    max_runtime_seconds: int = Field(86_400, ge=1, le=30 * 86_400)


MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[CleanText, StringConstraints(max_length=512)]


class RewardJobSpec(_Spec):
    """A reward-model training job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "helpfulness-v3",
                    "base_model": "all-minilm-l6-v2",
                    "train_dataset": "ds_0199d8d0c5f57cc0a5a8c4cf3cb1a001",
                    "eval_dataset": {"fraction": 0.1},
                }
            ]
        }
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = None
    base_model: BaseModelName = Field(description="An id of GET /v1/base-models.")
    train_dataset: str = Field(pattern=DATASET_ID)
    eval_dataset: Evaluation | None = Field(
        None, description='A dataset\'s id, or {"fraction": 0.1} of the training pairs.'
    )
    lora: LoraSpec = Field(default_factory=lambda: LoraSpec())
    training: TrainingSpec = Field(default_factory=lambda: TrainingSpec())
    quantization: Literal["none", "8bit", "4bit"] = "none"
    resources: Resources = Field(default_factory=lambda: Resources())
    priority: int = Field(0, ge=-100, le=100, description="Higher is claimed first.")
    metadata: dict[MetadataKey, MetadataValue] = Field(default={}, max_length=16)
