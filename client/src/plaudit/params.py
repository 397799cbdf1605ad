"""What requests are made of, named as in the OpenAPI document.

Generated from docs/openapi.json by `make client-models`. Do not edit."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class ApiKeyCreate(TypedDict):
    """A key to be."""

    name: str
    scopes: list[Literal["jobs:read", "jobs:write", "artifacts:read", "admin"]]
    expires_at: NotRequired[str | None]
    """Null: never."""


class EarlyStopping(TypedDict):
    """Stop when eval loss has not improved; the best checkpoint becomes the adapter."""

    patience: NotRequired[int]
    """Evaluations without improvement."""
    min_delta: NotRequired[float]
    """What counts as improvement."""


class EvalFraction(TypedDict):
    """Hold out a share of the training pairs."""

    fraction: float
    """Share of the training pairs, 0 to 1."""


class JobCancel(TypedDict):
    """How to cancel."""

    keep_checkpoint: NotRequired[bool]
    """So that a clone can go on from it."""


class JobClone(TypedDict):
    """How a clone differs from its parent."""

    overrides: NotRequired[dict[str, Any]]
    """Parts of a spec, merged into the parent's (RFC 7396: null takes a field out)."""
    from_checkpoint: NotRequired[bool]
    """Go on from the parent's last checkpoint instead of from the start."""


class JobUpdate(TypedDict):
    """What of a job can be changed."""

    name: NotRequired[str | None]
    priority: NotRequired[int]
    """While the job waits."""
    metadata: NotRequired[dict[str, str]]
    """Replaces all of it."""


class LoraSpec(TypedDict):
    """The adapter. Its task type is always SEQ_CLS; the head is always trained and saved."""

    task_type: NotRequired[Literal["SEQ_CLS"]]
    """Not a choice."""
    r: NotRequired[int]
    """Rank."""
    alpha: NotRequired[int]
    """Scale: alpha / r."""
    dropout: NotRequired[float]
    """
    Of the LoRA branch alone: the base model's own dropout is always off. 0 is PEFT's default;
    more rules out the fast engine.
    """
    target_modules: NotRequired[Literal["auto", "all-linear"] | list[str]]
    """
    'auto' and 'all-linear': every linear layer of the backbone (attention projections only on
    mixture-of-experts); or names, each of which must match.
    """
    modules_to_save: NotRequired[list[str]]
    """Trained and saved in full besides the head, which always is."""
    use_rslora: NotRequired[bool]
    """Scale by alpha / sqrt(r)."""
    use_dora: NotRequired[bool]
    """Weight-decomposed LoRA."""
    init: NotRequired[Literal["default", "gaussian", "orthogonal"]]


class Resources(TypedDict):
    """What the job may use."""

    gpus: NotRequired[Literal[0, 1]]
    """0: never a GPU; 1: one, where there is one."""
    max_runtime_seconds: NotRequired[int]


class TrainingSpec(TypedDict):
    """How to train. Batch sizes count pairs: the forward pass sees two sequences a pair."""

    epochs: NotRequired[float]
    max_steps: NotRequired[int | None]
    """Overrides epochs."""
    learning_rate: NotRequired[float]
    lr_scheduler: NotRequired[Literal["linear", "cosine", "constant", "constant_with_warmup"]]
    warmup_ratio: NotRequired[float]
    weight_decay: NotRequired[float]
    max_grad_norm: NotRequired[float]
    batch_size: NotRequired[int]
    """Pairs an optimiser step (effective)."""
    per_device_batch_size: NotRequired[Literal["auto"] | int]
    """Pairs a forward pass; must divide batch_size."""
    max_length: NotRequired[int]
    """Tokens of prompt and reply."""
    overlong: NotRequired[Literal["drop", "error"]]
    """Pairs over max_length."""
    center_rewards_coefficient: NotRequired[float | None]
    gradient_checkpointing: NotRequired[Literal["auto"] | bool]
    precision: NotRequired[Literal["auto", "fp32", "bf16"]]
    """auto: bf16 on GPUs that have it, fp32 on CPU."""
    engine: NotRequired[Literal["auto", "shared_prefix", "stock"]]
    """auto: the fast engine where it is exact, TRL's own otherwise."""
    eval_steps: NotRequired[int | None]
    """Besides the start and the end."""
    checkpoint_steps: NotRequired[int | None]
    """Optimiser steps."""
    logging_steps: NotRequired[int]
    early_stopping: NotRequired[EarlyStopping | None]
    seed: NotRequired[int]


class WebhookCreate(TypedDict):
    """An address to be told about jobs."""

    url: str
    """https, port 443, on a host that the operator allows."""
    events: NotRequired[
        list[Literal["job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled"]]
    ]
    """Job statuses to be told of; all, unless said."""


class RewardJobSpec(TypedDict):
    """A reward-model training job."""

    name: NotRequired[str | None]
    base_model: str
    """An id of GET /v1/base-models."""
    train_dataset: str
    eval_dataset: NotRequired[str | EvalFraction | None]
    """A dataset's id, or {"fraction": 0.1} of the training pairs."""
    lora: NotRequired[LoraSpec]
    training: NotRequired[TrainingSpec]
    quantization: NotRequired[Literal["none", "8bit", "4bit"]]
    resources: NotRequired[Resources]
    priority: NotRequired[int]
    """Higher is claimed first."""
    metadata: NotRequired[dict[str, str]]
