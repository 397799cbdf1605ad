"""The ``training`` part of a job spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from app.domain.rows import RESERVED_TEMPLATE_VARIABLES
from app.domain.strict_numbers import StrictNumbers

#: Text without control characters; PostgreSQL cannot store NUL. Pydantic rejects lone surrogates.
#: It must be the first item of an Annotated: Pydantic would ignore the pattern in a later one.
CleanText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]


#: Text of several lines: line breaks and tabs, but no other control characters.
CleanLines = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]


class SpecPart(StrictNumbers):
    """An object of a spec: no unknown fields, no changes, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


#: Limit for a template from a model, the catalogue or a spec: it is rendered for every pair.
MAX_TEMPLATE_BYTES = 64 << 10


def _check_template_bytes(template: str) -> str:
    if len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise PydanticCustomError(
            "too_long",
            "chat_template has {found} bytes, and at most {limit} are allowed",
            {"found": len(template.encode()), "limit": MAX_TEMPLATE_BYTES},
        )
    return template


#: PostgreSQL cannot store NUL. The length in characters bounds the work of encoding it.
ChatTemplate = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=MAX_TEMPLATE_BYTES),
    AfterValidator(_check_template_bytes),
]


class EarlyStopping(SpecPart):
    """Stop when the evaluation loss stops improving. The best checkpoint becomes the adapter."""

    patience: int = Field(
        3, ge=1, le=1000, description="Number of evaluations without improvement before stopping."
    )
    min_delta: float = Field(
        0.0, ge=0, le=10, description="Smallest decrease of the loss that counts as improvement."
    )
    monitored_dataset: Annotated[CleanText, StringConstraints(max_length=64)] | None = Field(
        None, description="The name in eval_datasets whose loss decides; null: eval_dataset."
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
    """Reject too many names before any of them is validated, and parameters of the renderer."""
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


#: Names from transformers, for optimisers of torch and for its own Adafactor.
TorchOptimizer = Literal[
    "adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"
]
#: Optimisers of bitsandbytes. "paged" ones move their state to the CPU when the GPU is full.
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


class TrainingSpec(SpecPart):
    """How to train. Batch sizes count pairs, each of which has two sequences."""

    epochs: float = Field(
        1.0, gt=0, le=1000, description="Passes over the training pairs; may be a fraction."
    )
    max_steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Number of optimiser steps; overrides epochs."
    )
    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="Highest learning rate of the schedule."
    )
    lr_scheduler: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "constant",
        "constant_with_warmup",
    ] = Field(
        "linear",
        description="How the learning rate changes over the steps, by the names of transformers.",
    )
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
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay of the optimiser."
    )
    max_grad_norm: float = Field(
        1.0, gt=0, le=1000, description="Gradients with a larger norm are scaled down to it."
    )
    batch_size: int = Field(
        8, ge=1, le=4096, description="Pairs per optimiser step (effective batch size)."
    )
    per_device_batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto", description="Pairs per forward pass; must divide batch_size."
    )
    max_length: int = Field(
        1024,
        ge=8,
        le=1_048_576,
        description="Longest sequence of prompt and reply, in tokens. The default is lowered to "
        "the positions of the base model.",
    )
    overlong: Literal["drop", "error", "truncate_left"] = Field(
        "drop",
        description="What happens to pairs longer than max_length, in training and evaluation. "
        "'truncate_left' cuts the beginning of the prompt, and drops pairs whose replies alone are "
        "too long.",
    )
    pad_token: Annotated[CleanText, StringConstraints(min_length=1, max_length=100)] | None = Field(
        None,
        description="Special token of the base model for padding. null: the tokenizer's pad token, "
        "or another one if texts end in it.",
    )
    text_format: Literal["auto", "chat", "raw"] = Field(
        "auto",
        description="How datasets of texts are tokenised. 'chat': the prompt is a user turn and "
        "the reply an assistant turn of the chat template. 'raw': both are concatenated unchanged. "
        "'auto' is 'chat' if the base model has a chat template, unless rows have no prompt or are "
        "rendered already.",
    )
    chat_template: ChatTemplate | None = Field(
        None,
        description="Jinja template that replaces the base model's. It becomes the adapter's.",
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
        description="Largest number of training pairs per row with ranked replies, drawn with the "
        "seed; null: all. Evaluations use all pairs.",
    )
    center_rewards_coefficient: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Weight of the squared sum of a pair's rewards in the loss, which centres "
        "rewards at 0; null: no such term.",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        "auto",
        description="Whether activations are computed again in the backward pass, which takes less "
        "memory and more time. 'auto': on GPUs.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="'auto' uses bf16 on GPUs that support it, and fp32 on CPU."
    )
    engine: Literal["auto", "shared_prefix", "stock"] = Field(
        "auto",
        description="'auto' uses the shared-prefix engine if it is exact, and otherwise 'stock', "
        "which is TRL's own training loop.",
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Optimiser steps between evaluations. Evaluations before and after training "
        "always run.",
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Optimiser steps between checkpoints; null: a time interval.",
    )
    resume: Literal["continue", "exact"] = Field(
        "continue",
        description="After an interruption, 'continue' resumes from the last checkpoint, with a "
        "warning if another GPU or number of threads will change the adapter's last bits. 'exact' "
        "trains from the start in that case.",
    )
    logging_steps: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Optimiser steps between the logged training metrics. The last step is always "
        "logged.",
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="Stop when the evaluation loss stops improving, and publish the best model; "
        "null: train to the last step.",
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="Seed of the random head, the LoRA weights, dropout and the pairs' order.",
    )
