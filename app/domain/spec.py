"""The job spec. docs/defaults.md compares its defaults with those of TRL and PEFT."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    Tag,
    field_validator,
)
from pydantic_core import PydanticCustomError

from app.domain.rows import RESERVED_TEMPLATE_VARIABLES

BASE_MODEL_ID = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DATASET_ID = r"^ds_[0-9a-f]{32}$"
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
#: Validation stops at the first invalid name, because the client chooses the length of the list.
TargetModules = Annotated[list[ModuleName], Field(max_length=2048, fail_fast=True)]
#: Text without control characters; PostgreSQL cannot store NUL. Pydantic rejects lone surrogates.
#: It must be the first item of an Annotated: Pydantic would ignore the pattern in a later one.
CleanText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]

#: Any text, because the catalogue suggests an id for the name of a hub repository.
BaseModelName = Annotated[CleanText, StringConstraints(min_length=1, max_length=200)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvalFraction(_Spec):
    """Hold out a fraction of the training pairs."""

    fraction: float = Field(
        gt=0, lt=1, description="Fraction of the training pairs, between 0 and 1."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**32 - 1,
        description="Which pairs are held out. null: the same ones in every job on the dataset, "
        "whatever training.seed is.",
    )


def _evaluation_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "by id"
    return "held out" if isinstance(value, dict | EvalFraction) else None


#: The type is chosen before the value is validated, so that an error describes one type only.
Evaluation = Annotated[
    Annotated[str, StringConstraints(pattern=DATASET_ID), Tag("by id")]
    | Annotated[EvalFraction, Tag("held out")],
    Discriminator(
        _evaluation_form,
        custom_error_type="eval_dataset_form",
        custom_error_message="Should be a dataset id (a string) or an object with a fraction",
    ),
]


class LoraSpec(_Spec):
    """The LoRA adapter. The reward head is always trained and saved in full."""

    task_type: Literal["SEQ_CLS"] = Field(
        "SEQ_CLS", description="Always SEQ_CLS: no other task type trains a reward head."
    )
    r: int = Field(16, ge=1, le=1024, description="Rank.")
    alpha: int = Field(
        32, ge=1, le=65536, description="Numerator of the scale of the adapter, alpha / r."
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Applies to the LoRA layers only; base-model dropout is always off. A value "
        "above 0 rules out the shared-prefix engine.",
    )
    target_modules: Literal["auto", "all-linear"] | TargetModules = Field(
        "auto",
        description="'auto' and 'all-linear' adapt every linear layer of the backbone, or only the "
        "attention projections of a mixture of experts. In a list, each name must match a layer.",
    )
    modules_to_save: Annotated[list[ModuleName], Field(max_length=32, fail_fast=True)] = Field(
        default=[],
        description="Further modules that are trained and saved in full, besides the reward head.",
    )
    use_rslora: bool = Field(
        False, description="Rank-stabilised LoRA: the scale is alpha / sqrt(r)."
    )
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (DoRA).")
    init: Literal["default", "gaussian", "orthogonal"] = Field("default")

    @field_validator("task_type", mode="before")
    @classmethod
    def _task_type_is_not_a_choice(cls, value: Any) -> Any:
        if value != "SEQ_CLS":
            raise PydanticCustomError(
                "task_type_fixed",
                "task_type must be SEQ_CLS: any other value would leave the reward head untrained "
                "and outside the adapter. Remove the field.",
            )
        return value

    @field_validator("modules_to_save", mode="before")
    @classmethod
    def _head_stays(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError(
                "head_removed",
                "modules_to_save cannot be null: the reward head is always trained and saved. "
                "Use a list of further modules, or remove the field.",
            )
        return value

    @field_validator("target_modules")
    @classmethod
    def _targets_are_named(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise PydanticCustomError(
                "target_modules_empty",
                "target_modules needs 1 to 2048 names, or 'auto' or 'all-linear'.",
            )
        return value


class EarlyStopping(_Spec):
    """Stop when the evaluation loss stops improving. The best checkpoint becomes the adapter."""

    patience: int = Field(
        3, ge=1, le=1000, description="Number of evaluations without improvement before stopping."
    )
    min_delta: float = Field(
        0.0, ge=0, le=10, description="Smallest decrease of the loss that counts as improvement."
    )


MAX_TEMPLATE_VARIABLES = 16
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
#: Strict types, so that true does not become 1, nor a number text.
VariableValue = (
    StrictBool
    | StrictInt
    | StrictFloat
    | Annotated[CleanText, StringConstraints(max_length=512, strict=True)]
)


def _check_variables(value: Any) -> Any:
    """Reject too many names before any of them is validated, and names of the renderer's own."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_TEMPLATE_VARIABLES:
        raise PydanticCustomError(
            "too_long",
            "chat_template_kwargs may have at most {limit} entries, not {found}",
            {"limit": MAX_TEMPLATE_VARIABLES, "found": len(value)},
        )
    for name in value:
        if name in RESERVED_TEMPLATE_VARIABLES:
            raise PydanticCustomError(
                "reserved_variable",
                "{name} is a parameter of the renderer, not a variable of the chat template",
                {"name": name},
            )
    return value


TemplateVariables = Annotated[
    dict[VariableName, VariableValue],
    Field(max_length=MAX_TEMPLATE_VARIABLES),
    BeforeValidator(_check_variables),
]


#: The names of transformers: of torch, and Adafactor of transformers itself.
TorchOptimizer = Literal[
    "adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"
]
#: Of bitsandbytes. "paged" ones move their state to the CPU when the GPU is full.
BitsAndBytesOptimizer = Literal[
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_8bit",
    "paged_ademamix_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
]
Optimizer = TorchOptimizer | BitsAndBytesOptimizer


class TrainingSpec(_Spec):
    """How to train. Batch sizes count pairs, each of which has two sequences."""

    epochs: float = Field(1.0, gt=0, le=1000)
    max_steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Number of optimiser steps; overrides epochs."
    )
    learning_rate: float = Field(1e-4, gt=0, le=1)
    lr_scheduler: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "constant",
        "constant_with_warmup",
    ] = "linear"
    lr_cycles: int | None = Field(
        None, ge=1, le=1000, description="Cycles of cosine_with_restarts; null: 2."
    )
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="Share of the steps that warm up.")
    warmup_steps: int | None = Field(
        None, ge=0, le=10_000_000, description="Steps that warm up; instead of warmup_ratio."
    )
    optimizer: Optimizer = Field(
        "adamw_torch_fused",
        description="An optimiser of torch, or one of bitsandbytes, which needs a CUDA GPU.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1000)
    batch_size: int = Field(
        8, ge=1, le=4096, description="Pairs per optimiser step (effective batch size)."
    )
    per_device_batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto", description="Pairs per forward pass; must divide batch_size."
    )
    max_length: int = Field(
        1024, ge=8, le=1_048_576, description="Longest sequence of prompt and reply, in tokens."
    )
    overlong: Literal["drop", "error", "truncate_left"] = Field(
        "drop",
        description="What happens to pairs longer than max_length, in training and evaluation. "
        "'truncate_left' cuts the beginning of the prompt, and drops pairs whose replies alone are "
        "too long.",
    )
    pad_token: Annotated[CleanText, StringConstraints(min_length=1, max_length=100)] | None = Field(
        None,
        description="Special token of the base model that fills batches up. null: the tokenizer's "
        "own, or another one if texts end in it.",
    )
    text_format: Literal["auto", "chat", "raw"] = Field(
        "auto",
        description="How datasets of texts are tokenised. 'chat': the prompt is a user turn and "
        "the reply an assistant turn of the chat template. 'raw': joined as they are. 'auto' is "
        "'chat' where the base model has a chat template, unless rows have no prompt or are "
        "rendered already.",
    )
    chat_template_kwargs: TemplateVariables = Field(
        default={},
        description='Variables of the chat template, such as {"enable_thinking": false}. Those '
        "of a row take precedence. They become a part of the adapter's chat template.",
    )
    pairs_per_prompt: int | None = Field(
        None,
        ge=1,
        le=2016,
        description="Of each row with ranked replies, train on at most so many pairs, drawn with "
        "the seed; null: on all. Evaluations use all.",
    )
    center_rewards_coefficient: float | None = Field(None, gt=0, le=1)
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="'auto' uses bf16 on GPUs that support it, and fp32 on CPU."
    )
    engine: Literal["auto", "shared_prefix", "stock"] = Field(
        "auto",
        description="'auto' uses the shared-prefix engine where it is exact, and 'stock', which is "
        "TRL's own training loop, otherwise.",
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Optimiser steps between evaluations. Evaluations before and after training "
        "always run.",
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Optimiser steps between checkpoints; null: a time interval."
    )
    logging_steps: int = Field(1, ge=1, le=10_000)
    early_stopping: EarlyStopping | None = None
    seed: int = Field(42, ge=0, le=2**32 - 1)


class Resources(_Spec):
    """Resources that the job may use."""

    gpus: Literal[0, 1] = Field(1, description="0: CPU only; 1: a GPU if the worker has one.")
    max_runtime_seconds: int = Field(86_400, ge=1, le=30 * 86_400)


MAX_METADATA = 16
MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[CleanText, StringConstraints(max_length=512)]


def _check_metadata_length(value: Any) -> Any:
    """Reject too many entries before any of them is validated."""
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise PydanticCustomError(
            "too_long",
            "metadata may have at most {limit} entries, not {found}",
            {"limit": MAX_METADATA, "found": len(value)},
        )
    return value


Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Field(max_length=MAX_METADATA),
    BeforeValidator(_check_metadata_length),
]


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
    base_model: BaseModelName = Field(description="An id from GET /v1/base-models.")
    base_model_head: Literal["reuse", "new"] = Field(
        "reuse",
        description="'reuse' starts from the trained reward head of the base model, if its files "
        "have one; 'new' always starts from a random head.",
    )
    train_dataset: str = Field(pattern=DATASET_ID)
    eval_dataset: Evaluation | None = Field(
        None,
        description="The id of a dataset, or a fraction of the training pairs such as "
        '{"fraction": 0.1}.',
    )
    lora: LoraSpec = Field(default_factory=lambda: LoraSpec())
    training: TrainingSpec = Field(default_factory=lambda: TrainingSpec())
    quantization: Literal["none", "8bit", "4bit"] = "none"
    resources: Resources = Field(default_factory=lambda: Resources())
    priority: int = Field(0, ge=-100, le=100, description="Jobs with a higher priority run first.")
    metadata: Metadata = Field(default={})
