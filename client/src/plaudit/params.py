"""Types of the request bodies, named as in the service's OpenAPI document.

Generated from docs/openapi.json by `make client-models`. Do not edit."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class ApiKeyCreate(TypedDict):
    """A new API key."""

    name: str
    scopes: list[Literal["jobs:read", "jobs:write", "artifacts:read", "scores:write", "admin"]]
    expires_at: NotRequired[str | None]
    """Null for a key that never expires."""


class DatasetContent(TypedDict):
    """A reference to a dataset by its rows: the newest one with this `sha256`."""

    sha256: str
    """The `sha256` that GET /v1/datasets shows."""


class EarlyStopping(TypedDict):
    """Stop when the evaluation loss stops improving. The best checkpoint becomes the adapter."""

    patience: NotRequired[int]
    """Number of evaluations without improvement before stopping."""
    min_delta: NotRequired[float]
    """Smallest decrease of the loss that counts as improvement."""
    monitored_dataset: NotRequired[str | None]
    """The name in eval_datasets whose loss decides; null: eval_dataset."""


Ensemble = TypedDict(
    "Ensemble",
    {
        "ensemble": list[str],
        "reduce": NotRequired[Literal["mean", "min", "lcb"]],
        "lambda": NotRequired[float],
    },
)


class EvalFraction(TypedDict):
    """Hold out a fraction of the training pairs."""

    fraction: float
    """Fraction of the training pairs, between 0 and 1."""
    seed: NotRequired[int | None]
    """
    Seed that selects the held-out pairs. null: every job on the dataset holds out the same
    pairs, independently of training.seed.
    """


class EvaluationSpec(TypedDict):
    """Request to evaluate adapters on a dataset."""

    name: NotRequired[str | None]
    adapters: list[str]
    """
    Adapters of one base model. `base:untrained`, the base model with a random head, is always
    evaluated as well.
    """
    dataset: str | DatasetContent
    """
    The rows to score: pairs or ranked rows. A dataset by its id, or by the digest of its
    rows.
    """
    suite: NotRequired[str | None]
    """A benchmark of GET /v1/suites whose rows the dataset has."""
    slices: NotRequired[list[str] | None]
    """Slices to report; null: the 32 largest."""
    probes: NotRequired[
        list[
            Literal[
                "double_spaces",
                "trailing_newlines",
                "markdown_added",
                "markdown_stripped",
                "heading_added",
                "filler_added",
                "praise_added",
                "paragraph_repeated",
                "reply_truncated",
                "reply_empty",
                "reply_is_prompt",
                "prompt_swapped",
            ]
        ]
    ]
    """Probes for reward hacking; all by default, `[]` for none."""
    probe_pairs: NotRequired[int]
    """Number of rows for probes, drawn with the seed."""
    overlong: NotRequired[Literal["as_trained", "drop", "truncate"]]
    """
    What to do with replies that exceed the `max_length` of an adapter: what its training did
    (leave their row out, or cut the beginning of its prompt), always leave it out, or cut the
    reply at the end as the runners of the benchmarks do.
    """
    seed: NotRequired[int]


class ImportCreate(TypedDict):
    """Split of a hub dataset, and options for reading its rows."""

    source: str
    """
    `hub:org/name@revision`: a dataset of the operator's hub; the revision is a branch, tag or
    commit, by default `main`.
    """
    split: NotRequired[str]
    config: NotRequired[str | None]
    """Needed if there are several."""
    name: NotRequired[str | None]
    """Name for display. Default: the name of the source."""
    columns: NotRequired[dict[str, str]]
    """Column of each part; see docs/data.md."""
    labels: NotRequired[dict[str, str]]
    """Meaning of the values of the label column."""
    ignore_columns: NotRequired[list[str]]
    on_invalid: NotRequired[Literal["refuse", "skip"]]
    chat_template_kwargs: NotRequired[dict[str, bool | int | float | str]]
    """Variables of the chat template for all rows, as in an upload."""


class JobCancel(TypedDict):
    """Options of a cancel."""

    keep_checkpoint: NotRequired[bool]
    """Keep a checkpoint, so that a clone can resume from it."""


class JobClone(TypedDict):
    """The differences between a clone and its parent."""

    overrides: NotRequired[dict[str, Any]]
    """Parts of a spec, merged into the parent's (RFC 7396: null removes a field)."""
    from_checkpoint: NotRequired[bool]
    """Resume from the parent's last checkpoint instead of training from the start."""


class JobUpdate(TypedDict):
    """The fields of a job that can be changed."""

    name: NotRequired[str | None]
    priority: NotRequired[int]
    """Can change only while the job waits."""
    metadata: NotRequired[dict[str, str]]
    """Replaces all metadata of the job."""
    notes: NotRequired[str | None]
    """Text of several lines about the job; null removes it."""


class LoraSpec(TypedDict):
    """The LoRA adapter. The reward head is always trained and saved in full."""

    task_type: NotRequired[Literal["SEQ_CLS"]]
    """Always SEQ_CLS: no other task type trains a reward head."""
    r: NotRequired[int]
    """Rank of the LoRA matrices."""
    alpha: NotRequired[int]
    """Numerator of the scale of the adapter, alpha / r."""
    dropout: NotRequired[float]
    """
    Applies to the LoRA layers only; base-model dropout is always off. A value above 0 rules
    out the shared-prefix engine.
    """
    target_modules: NotRequired[Literal["auto", "all-linear"] | list[str]]
    """
    'auto' and 'all-linear' adapt every linear layer of the backbone, or only the attention
    projections of a mixture of experts. In a list, each name must match a layer.
    """
    modules_to_save: NotRequired[list[str]]
    """Further modules that are trained and saved in full, besides the reward head."""
    use_rslora: NotRequired[bool]
    """Rank-stabilised LoRA: the scale is alpha / sqrt(r)."""
    use_dora: NotRequired[bool]
    """Weight-decomposed LoRA (DoRA)."""
    init: NotRequired[Literal["default", "gaussian", "orthogonal"]]
    """
    How the LoRA matrices start: PEFT's default (A random, B zero), A Gaussian and B zero, or
    orthogonal.
    """


class PushCreate(TypedDict):
    """A new push: the target repository."""

    repo: str
    """`org/name`; the repository is created if it does not exist."""
    private: NotRequired[bool]
    """Whether the repository is private, if the push creates it."""


class Resources(TypedDict):
    """Resources that the job may use."""

    gpus: NotRequired[Literal[0, 1]]
    """0: CPU only; 1: a GPU if the worker has one."""
    max_runtime_seconds: NotRequired[int]
    """
    Seconds that all attempts of the job may run together; then it fails. The default is
    lowered to the operator's limit.
    """


class ScoreBatchSpec(TypedDict):
    """Request to score the rows of a dataset with an adapter."""

    name: NotRequired[str | None]
    adapter: str
    """Id of an adapter."""
    dataset: str
    """The rows to score: pairs or ranked rows."""
    overlong: NotRequired[Literal["drop", "truncate"]]
    """
    What to do with replies that exceed the adapter's `max_length`: give their row no scores
    but a reason, or cut them at the end.
    """


class ScoreGroup(TypedDict):
    """One prompt and the replies to it."""

    id: NotRequired[Any]
    """Returned unchanged."""
    prompt: NotRequired[str | list[dict[str, Any]] | None]
    """Text, or messages. A text becomes the user's message for a chat adapter."""
    responses: list[str | list[dict[str, Any]]]


class ScoreInput(TypedDict):
    """One text: a prompt with a response, a conversation, or a text with its template."""

    id: NotRequired[Any]
    """Returned unchanged."""
    prompt: NotRequired[str | list[dict[str, Any]] | None]
    response: NotRequired[str | list[dict[str, Any]] | None]
    messages: NotRequired[list[dict[str, Any]] | None]
    """A conversation with its reply at the end."""
    text: NotRequired[str | None]
    """A whole text, rendered with the chat template."""


ScoreRequest = TypedDict(
    "ScoreRequest",
    {
        "model": str | Ensemble,
        "groups": NotRequired[list[ScoreGroup] | None],
        "inputs": NotRequired[list[ScoreInput] | None],
        "normalize": NotRequired[Literal["none", "zscore", "sigmoid"]],
        "truncation": NotRequired[Literal["error", "left", "right"]],
        "max_length": NotRequired[int | None],
        "deterministic": NotRequired[bool],
        "return": NotRequired[list[Literal["tokens", "members"]]],
    },
)


class TrainingSpec(TypedDict):
    """How to train. Batch sizes count pairs, each of which has two sequences."""

    epochs: NotRequired[float]
    """Passes over the training pairs; may be a fraction."""
    max_steps: NotRequired[int | None]
    """Number of optimiser steps; overrides epochs."""
    learning_rate: NotRequired[float]
    """Highest learning rate of the schedule."""
    lr_scheduler: NotRequired[
        Literal[
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "inverse_sqrt",
            "constant",
            "constant_with_warmup",
        ]
    ]
    """How the learning rate changes over the steps, by the names of transformers."""
    lr_cycles: NotRequired[int | None]
    """Cycles of cosine_with_restarts; null: 2."""
    warmup_ratio: NotRequired[float]
    """Share of the steps that warm up."""
    warmup_steps: NotRequired[int | None]
    """Steps that warm up; instead of warmup_ratio."""
    optimizer: NotRequired[
        Literal["adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"]
        | Literal[
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
    ]
    """An optimiser of torch, or one of bitsandbytes, which needs a CUDA GPU."""
    weight_decay: NotRequired[float]
    """Decoupled weight decay of the optimiser."""
    max_grad_norm: NotRequired[float]
    """Gradients with a larger norm are scaled down to it."""
    batch_size: NotRequired[int]
    """Pairs per optimiser step (effective batch size)."""
    per_device_batch_size: NotRequired[Literal["auto"] | int]
    """Pairs per forward pass; must divide batch_size."""
    max_length: NotRequired[int]
    """
    Longest sequence of prompt and reply, in tokens. The default is lowered to the positions
    of the base model.
    """
    overlong: NotRequired[Literal["drop", "error", "truncate_left"]]
    """
    What happens to pairs longer than max_length, in training and evaluation. 'truncate_left'
    cuts the beginning of the prompt, and drops pairs whose replies alone are too long.
    """
    pad_token: NotRequired[str | None]
    """
    Special token of the base model for padding. null: the tokenizer's pad token, or another
    one if texts end in it.
    """
    text_format: NotRequired[Literal["auto", "chat", "raw"]]
    """
    How datasets of texts are tokenised. 'chat': the prompt is a user turn and the reply an
    assistant turn of the chat template. 'raw': both are concatenated unchanged. 'auto' is
    'chat' if the base model has a chat template, unless rows have no prompt or are rendered
    already.
    """
    chat_template: NotRequired[str | None]
    """Jinja template that replaces the base model's. It becomes the adapter's."""
    chat_template_kwargs: NotRequired[dict[str, bool | int | float | str]]
    """
    Variables of the chat template, such as {"enable_thinking": false}. Those of a row take
    precedence. They become a part of the adapter's chat template.
    """
    pairs_per_prompt: NotRequired[int | None]
    """
    Largest number of training pairs per row with ranked replies, drawn with the seed; null:
    all. Evaluations use all pairs.
    """
    center_rewards_coefficient: NotRequired[float | None]
    """
    Weight of the squared sum of a pair's rewards in the loss, which centres rewards at 0;
    null: no such term.
    """
    gradient_checkpointing: NotRequired[Literal["auto"] | bool]
    """
    Whether activations are computed again in the backward pass, which takes less memory and
    more time. 'auto': on GPUs.
    """
    precision: NotRequired[Literal["auto", "fp32", "bf16"]]
    """'auto' uses bf16 on GPUs that support it, and fp32 on CPU."""
    engine: NotRequired[Literal["auto", "shared_prefix", "stock"]]
    """
    'auto' uses the shared-prefix engine if it is exact, and otherwise 'stock', which is TRL's
    own training loop.
    """
    eval_steps: NotRequired[int | None]
    """Optimiser steps between evaluations. Evaluations before and after training always run."""
    checkpoint_steps: NotRequired[int | None]
    """Optimiser steps between checkpoints; null: a time interval."""
    resume: NotRequired[Literal["continue", "exact"]]
    """
    After an interruption, 'continue' resumes from the last checkpoint, with a warning if
    another GPU or number of threads will change the adapter's last bits. 'exact' trains from
    the start in that case.
    """
    logging_steps: NotRequired[int]
    """Optimiser steps between the logged training metrics. The last step is always logged."""
    early_stopping: NotRequired[EarlyStopping | None]
    """
    Stop when the evaluation loss stops improving, and publish the best model; null: train to
    the last step.
    """
    seed: NotRequired[int]
    """Seed of the random head, the LoRA weights, dropout and the pairs' order."""


class WebhookCreate(TypedDict):
    """A new webhook."""

    url: str
    """An https URL on port 443 of a host that the operator allows."""
    events: NotRequired[
        list[
            Literal[
                "job.running",
                "job.paused",
                "job.succeeded",
                "job.failed",
                "job.cancelled",
                "evaluation.running",
                "evaluation.succeeded",
                "evaluation.failed",
                "evaluation.cancelled",
                "score_batch.running",
                "score_batch.succeeded",
                "score_batch.failed",
                "score_batch.cancelled",
            ]
        ]
    ]
    """Events to send messages for; all events by default."""


class RewardJobSpec(TypedDict):
    """A reward-model training job."""

    name: NotRequired[str | None]
    """For people; need not be unique."""
    base_model: str
    """An id from GET /v1/base-models."""
    base_model_head: NotRequired[Literal["auto", "reuse", "new"]]
    """
    'auto' starts from the trained reward head of the base model, if its files have one that
    fits, and otherwise from a random head; 'reuse' refuses base models without such a head;
    'new' always starts from a random head.
    """
    train_dataset: str
    """The id of the dataset to train on, from GET /v1/datasets."""
    eval_dataset: NotRequired[str | EvalFraction | None]
    """The id of a dataset, or a fraction of the training pairs such as {"fraction": 0.1}."""
    eval_datasets: NotRequired[dict[str, str]]
    """
    Further datasets to evaluate on, by name, besides eval_dataset or without it. The metrics
    of {"maths": "ds_…"} are eval_maths/accuracy and so on.
    """
    lora: NotRequired[LoraSpec]
    training: NotRequired[TrainingSpec]
    quantization: NotRequired[Literal["none", "8bit", "4bit"]]
    """
    How bitsandbytes stores the linear layers of the base model: LLM.int8 or NF4; needs a CUDA
    GPU. The adapter and the head are not quantised.
    """
    resources: NotRequired[Resources]
    priority: NotRequired[int]
    """Jobs with a higher priority run first."""
    metadata: NotRequired[dict[str, str]]
    """Texts by name, for people and to filter lists of jobs."""
