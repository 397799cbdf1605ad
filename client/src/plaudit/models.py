"""Models of the responses, named as in the service's OpenAPI document.

Generated from docs/openapi.json by `make client-models`. Do not edit."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from plaudit._model import Model


class AdapterArchive(Model):
    """The deterministic tar archive of all files of an adapter."""

    bytes: int
    sha256: str
    url: str


class AdapterFile(Model):
    """A file of an adapter."""

    name: str
    bytes: int
    sha256: str
    url: str
    """Path to download the file from."""


class AdapterItem(Model):
    """An adapter in a list."""

    object: Literal["adapter"] = "adapter"
    id: str
    job_id: str
    base_model: str
    revision: str | None
    bytes: int
    archive: AdapterArchive
    metrics: dict[str, Any]
    created_at: AwareDatetime


class ApiKeyCreated(Model):
    """A new API key with its secret."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    scopes: list[
        Literal["jobs:read", "jobs:write", "artifacts:read", "scores:write", "admin"] | str
    ]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None
    """Accurate to one minute."""
    secret: str
    """The key to send in requests. It is shown only once and not stored."""


class ApiKeyRead(Model):
    """An API key without its secret."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    scopes: list[
        Literal["jobs:read", "jobs:write", "artifacts:read", "scores:write", "admin"] | str
    ]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None
    """Accurate to one minute."""


class AuditRead(Model):
    """An entry of the audit log."""

    object: Literal["audit_record"] = "audit_record"
    id: str
    at: AwareDatetime
    action: (
        Literal[
            "adapter.delete",
            "adapter.download",
            "adapter.merge",
            "adapter.push",
            "api_key.create",
            "api_key.revoke",
            "dataset.delete",
            "dataset.import",
            "dataset.upload",
            "evaluation.cancel",
            "evaluation.create",
            "evaluation.delete",
            "import.cancel",
            "job.cancel",
            "job.delete",
            "job.pause",
            "job.resume",
            "job.submit",
            "job.update",
            "score_batch.cancel",
            "score_batch.create",
            "score_batch.delete",
            "upload.create",
            "upload.delete",
            "upload.part",
            "webhook.create",
            "webhook.delete",
            "webhook.disable",
            "webhook.rotate_secret",
            "webhook.test",
        ]
        | str
    )
    object_id: str
    """Id of the affected resource, which may be deleted by now."""
    key_id: str | None
    """Null for the service itself and for its operator."""
    request_id: str | None
    client: str | None
    """The address that the request came from."""


class BaseModelRead(Model):
    """
    A base model that jobs can use.
    The fields from `revision` on are null until a worker has inspected the model, which
    happens when the first job uses it.
    """

    object: Literal["base_model"] = "base_model"
    id: str
    source: str
    description: str
    license: str | None
    is_inspected: bool
    revision: str | None = None
    """Hub commit or package version."""
    architecture: str | None = None
    head_modules: list[str] | None = None
    """Modules of the reward head, always trained and saved in full."""
    parameter_count: int | None = None
    max_length: int | None = None
    """Largest number of tokens; null for no absolute limit."""
    default_targets: list[str] | None = None
    """Layers that `target_modules` 'auto' adapts, by the last part of their names."""
    has_chat_template: bool | None = None


class CheckpointRead(Model):
    """A checkpoint of a job."""

    object: Literal["checkpoint"] = "checkpoint"
    id: str
    attempt: int
    step: int
    bytes: int
    metrics: dict[str, Any]
    is_best: bool
    is_current: bool
    """Whether the next attempt resumes from it."""
    created_at: AwareDatetime


class ComparedModel(Model):
    """One side of a comparison."""

    evaluation: str
    adapter: str


class DatasetContent(Model):
    """A reference to a dataset by its rows: the newest one with this `sha256`."""

    sha256: str
    """The `sha256` that GET /v1/datasets shows."""


class DatasetPreview(Model):
    """The first rows of a dataset."""

    object: Literal["dataset_preview"] = "dataset_preview"
    data: list[dict[str, Any]]


class DatasetReport(Model):
    """A report on a dataset, tokenised for one base model."""

    object: Literal["dataset_report"] = "dataset_report"
    dataset_id: str
    base_model: str
    report: dict[str, Any]


class DatasetWarningRead(Model):
    """Warning about a dataset."""

    code: str
    message: str
    lines: list[int] = []
    """Line numbers of the first affected rows."""


class DeliveryRead(Model):
    """A message to a webhook and the outcome of its last attempt."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: str
    """The `webhook-id` header, which is the same in every attempt."""
    type: (
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
        | str
        | Literal["webhook.test"]
    )
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"] | str
    attempts: int
    next_attempt_at: AwareDatetime | None
    """Null unless the message is pending."""
    last_attempt_at: AwareDatetime | None
    response_status: int | None
    response_body: str | None
    """The first 1024 bytes of the response."""
    error: str | None
    """Why the last attempt failed."""
    created_at: AwareDatetime


class Difference(Model):
    """Difference of the accuracies, b minus a, with its 95 % interval by prompt."""

    value: float
    interval: list[Any] | None


class Disagreements(Model):
    """Number of pairs that one model orders better than the other."""

    a_better: int
    b_better: int


class EarlyStopping(Model):
    """Stop when the evaluation loss stops improving. The best checkpoint becomes the adapter."""

    patience: int = 3
    """Number of evaluations without improvement before stopping."""
    min_delta: float = 0.0
    """Smallest decrease of the loss that counts as improvement."""
    monitored_dataset: str | None = None
    """The name in eval_datasets whose loss decides; null: eval_dataset."""


class EvalDatasetReport(Model):
    """What a job's report says of a named evaluation dataset, after training."""

    pairs: float | None
    left_out: float | None
    """Share of the pairs that are not evaluated."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    length_baseline: float | None
    plots: dict[str, str]
    """SVG by name."""
    model: dict[str, Any] | None
    """Metrics, as of the held-out pairs."""
    baselines: dict[str, dict[str, Any]]
    worst_pairs: list[dict[str, Any]]


class EvalFraction(Model):
    """Hold out a fraction of the training pairs."""

    fraction: float
    """Fraction of the training pairs, between 0 and 1."""
    seed: int | None = None
    """
    Seed that selects the held-out pairs. null: every job on the dataset holds out the same
    pairs, independently of training.seed.
    """


class EvaluationSpec(Model):
    """Request to evaluate adapters on a dataset."""

    name: str | None = None
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
    suite: str | None = None
    """A benchmark of GET /v1/suites whose rows the dataset has."""
    slices: list[str] | None = None
    """Slices to report; null: the 32 largest."""
    probes: (
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
            | str
        ]
        | None
    ) = None
    """Probes for reward hacking; all by default, `[]` for none."""
    probe_pairs: int = 100
    """Number of rows for probes, drawn with the seed."""
    overlong: Literal["as_trained", "drop", "truncate"] | str = "as_trained"
    """
    What to do with replies that exceed the `max_length` of an adapter: what its training did
    (leave their row out, or cut the beginning of its prompt), always leave it out, or cut the
    reply at the end as the runners of the benchmarks do.
    """
    seed: int = 0


class EventRead(Model):
    """An event of a job."""

    object: Literal["event"] = "event"
    id: int
    """Counts from 1 within the job, without gaps."""
    type: str
    message: str
    data: dict[str, Any]
    attempt: int
    at: AwareDatetime


class FullReport(Model):
    """The numbers and texts of a job's report page."""

    object: Literal["job_report_page"] = "job_report_page"
    job_id: str
    name: str | None
    status: str
    finished_at: str | None
    curves: dict[str, list[list[float]]]
    """(step, value) by name."""
    plots: dict[str, str]
    """SVG by name."""
    model: dict[str, Any] | None
    """Metrics on the held-out pairs, as in an evaluation; lengths are in tokens."""
    baselines: dict[str, dict[str, Any]]
    eval_datasets: dict[str, EvalDatasetReport]
    """The same of each named evaluation dataset; its curves are with the others."""
    worst_pairs: list[dict[str, Any]]
    data: dict[str, Any] | None
    """The dataset report."""
    warnings: list[str]
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None


class Health(Model):
    """Whether the process responds."""

    status: str


class ImportFailure(Model):
    """Why an import failed."""

    code: (
        Literal[
            "invalid_spec",
            "dataset_invalid",
            "pairs_overlong",
            "source_not_found",
            "source_too_large",
            "quota_exceeded",
            "model_not_found",
            "model_unsupported",
            "model_changed",
            "gated_no_access",
            "engine_unsupported",
            "quantization_unavailable",
            "nan_loss",
            "nothing_trained",
            "cuda_oom",
            "out_of_memory",
            "artifact_too_large",
            "timed_out",
            "hub_unavailable",
            "disk_full",
            "host_error",
            "cuda_error",
            "worker_lost",
            "trainer_crashed",
            "poison",
            "no_progress",
            "score_mismatch",
            "internal",
        ]
        | str
    )
    detail: str
    hint: str


class ImportRead(Model):
    """An import and its state."""

    object: Literal["dataset_import"] = "dataset_import"
    id: str
    source: str
    split: str
    config: str | None
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"] | str
    phase: str | None
    """Current step of a running import."""
    dataset_id: str | None
    """The dataset, once the import has succeeded."""
    failure: ImportFailure | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class JobFailure(Model):
    """Why a job failed and what to do next."""

    category: Literal["user", "resource", "infrastructure", "internal"] | str
    code: (
        Literal[
            "invalid_spec",
            "dataset_invalid",
            "pairs_overlong",
            "source_not_found",
            "source_too_large",
            "quota_exceeded",
            "model_not_found",
            "model_unsupported",
            "model_changed",
            "gated_no_access",
            "engine_unsupported",
            "quantization_unavailable",
            "nan_loss",
            "nothing_trained",
            "cuda_oom",
            "out_of_memory",
            "artifact_too_large",
            "timed_out",
            "hub_unavailable",
            "disk_full",
            "host_error",
            "cuda_error",
            "worker_lost",
            "trainer_crashed",
            "poison",
            "no_progress",
            "score_mismatch",
            "internal",
        ]
        | str
    )
    step: int | None
    detail: str
    hint: str


class JobProgress(Model):
    """The progress of a job."""

    step: int | None
    total_steps: int | None
    epoch: float | None
    rows_done: int | None
    """
    Rows of the datasets that are tokenised; null outside of the phase `tokenizing`, or while
    it has just begun.
    """
    rows_total: int | None
    seconds_left: float | None
    """
    Estimated: of the phase `tokenizing`, or of training; null until the first step of an
    attempt.
    """


class JobReportRead(Model):
    """A report of a job."""

    object: Literal["job_report"] = "job_report"
    job_id: str
    name: str
    document: dict[str, Any]


class JobWarning(Model):
    """A warning; docs/errors.md lists the codes."""

    model_config = ConfigDict(
        extra="allow",
    )
    code: str
    message: str


class LogPiece(Model):
    """Some lines of the trainer's output."""

    id: str
    """Attempt and number of the piece; the `after` of the next request."""
    attempt: int
    at: AwareDatetime
    text: str


class LoraSpec(Model):
    """The LoRA adapter. The reward head is always trained and saved in full."""

    task_type: Literal["SEQ_CLS"] = "SEQ_CLS"
    """Always SEQ_CLS: no other task type trains a reward head."""
    r: int = 16
    """Rank of the LoRA matrices."""
    alpha: int = 32
    """Numerator of the scale of the adapter, alpha / r."""
    dropout: float = 0.0
    """
    Applies to the LoRA layers only; base-model dropout is always off. A value above 0 rules
    out the shared-prefix engine.
    """
    target_modules: Literal["auto", "all-linear"] | str | list[str] = "auto"
    """
    'auto' and 'all-linear' adapt every linear layer of the backbone, or only the attention
    projections of a mixture of experts. In a list, each name must match a layer.
    """
    modules_to_save: list[str] = []
    """Further modules that are trained and saved in full, besides the reward head."""
    use_rslora: bool = False
    """Rank-stabilised LoRA: the scale is alpha / sqrt(r)."""
    use_dora: bool = False
    """Weight-decomposed LoRA (DoRA)."""
    init: Literal["default", "gaussian", "orthogonal"] | str = "default"
    """
    How the LoRA matrices start: PEFT's default (A random, B zero), A Gaussian and B zero, or
    orthogonal.
    """


class McNemar(Model):
    """Exact two-sided McNemar test on the disagreements."""

    p: float
    mid_p: float


class MergeRead(Model):
    """A merged export and its status."""

    object: Literal["merge"] = "merge"
    id: str
    source_adapter_id: str
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"] | str
    adapter_id: str | None
    """Id of the merged model, once the export has succeeded."""
    failure: str | None


class MetricsRead(Model):
    """Columns of equal length: `step` and one per metric, null where it was not logged."""

    object: Literal["metrics"] = "metrics"
    columns: dict[str, list[float | None]]


class ProblemField(Model):
    """One invalid field."""

    loc: str
    """JSON pointer into the body, or the name of the parameter."""
    code: str
    message: str
    hint: str
    """What to do next."""


class ProblemType(Model):
    """The meaning of an error code."""

    code: str
    status: int
    title: str
    when: str
    next_step: str
    """What to do next."""


class PushFailure(Model):
    """Why a push failed."""

    code: (
        Literal[
            "invalid_spec",
            "dataset_invalid",
            "pairs_overlong",
            "source_not_found",
            "source_too_large",
            "quota_exceeded",
            "model_not_found",
            "model_unsupported",
            "model_changed",
            "gated_no_access",
            "engine_unsupported",
            "quantization_unavailable",
            "nan_loss",
            "nothing_trained",
            "cuda_oom",
            "out_of_memory",
            "artifact_too_large",
            "timed_out",
            "hub_unavailable",
            "disk_full",
            "host_error",
            "cuda_error",
            "worker_lost",
            "trainer_crashed",
            "poison",
            "no_progress",
            "score_mismatch",
            "internal",
        ]
        | str
    )
    detail: str
    hint: str


class PushRead(Model):
    """A push of an adapter to a hub."""

    object: Literal["push"] = "push"
    id: str
    adapter_id: str
    repo: str
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"] | str
    commit: str | None
    """Commit id on the hub, once the push has succeeded."""
    failure: PushFailure | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class QueueItem(Model):
    """A queued job, evaluation or score batch, and the reason why it waits."""

    job_id: str
    """Id of a job (`job_…`), an evaluation (`eval_…`) or a score batch (`batch_…`)."""
    position: int
    """Counts from 1, over the jobs of all kinds and tenants."""
    priority: int
    queued_at: AwareDatetime
    reason: (
        Literal[
            "no_worker", "no_gpu", "quota", "backoff", "workers_busy", "behind_priority", "next"
        ]
        | str
    )


class Readiness(Model):
    """Whether database and broker respond. `workers` is informational."""

    status: str
    checks: dict[str, str]
    workers: int


class Resources(Model):
    """Resources that the job may use."""

    gpus: Literal[0, 1] | int = 1
    """0: CPU only; 1: a GPU if the worker has one."""
    max_runtime_seconds: int = 86400
    """
    Seconds that all attempts of the job may run together; then it fails. The default is
    lowered to the operator's limit.
    """


class RowsNamed(Model):
    """A number of rows, and the line numbers of the first ones in the dataset."""

    rows: int
    lines: list[int]


class ScoreBatchItem(Model):
    """A score batch in a list."""

    object: Literal["score_batch"] = "score_batch"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running batch."""
    progress: JobProgress
    """Steps are scored replies."""
    base_model: str
    adapter: str
    dataset: str
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    failure: JobFailure | None


class ScoreBatchResult(Model):
    """The result of a succeeded batch."""

    rows: int
    """Rows of the dataset; the score file has as many lines."""
    scored: int
    """Rows that have scores."""
    left_out: dict[str, RowsNamed]
    """Rows without scores by reason: overlong, not_rendered, no_tokens, ends_in_pad_token."""
    truncated: RowsNamed
    score_spec: str
    """Digest of everything that the scores depend on."""
    bytes: int
    """Of the file of scores."""
    sha256: str
    """Of the file of scores."""


class ScoreBatchSpec(Model):
    """Request to score the rows of a dataset with an adapter."""

    name: str | None = None
    adapter: str
    """Id of an adapter."""
    dataset: str
    """The rows to score: pairs or ranked rows."""
    overlong: Literal["drop", "truncate"] | str = "drop"
    """
    What to do with replies that exceed the adapter's `max_length`: give their row no scores
    but a reason, or cut them at the end.
    """


class ScoreData(Model):
    """The scores of a group, in the order of its responses."""

    index: int
    id: Any | None = None
    scores: list[float]
    truncated: list[bool]
    tokens: list[int] | None = None
    """Tokens of each text, if requested."""
    std: list[float] | None = None
    """Standard deviation of the members of an ensemble."""
    members: list[list[float]] | None = None
    """Normalised scores of each member of an ensemble, if requested."""


class ScoreUsage(Model):
    """Tokens of the request."""

    prompt_tokens: int
    computed_tokens: int
    """Shared prompts count once."""


class ServableRead(Model):
    """Whether an inference server can serve an adapter."""

    is_servable: bool
    reasons: list[str]
    """Why the server cannot serve the adapter, or the options to set in the server."""


class SkippedRowsRead(Model):
    """Rows that were skipped for one reason."""

    code: str
    """Code of the row's error, or `tie` if neither response is better."""
    count: int
    lines: list[int]
    """Line numbers of the first of them."""


class SliceComparison(Model):
    """Two models on the pairs of a slice."""

    pairs: int
    accuracy_a: float
    accuracy_b: float
    difference: Difference
    disagreements: Disagreements
    mcnemar: McNemar
    slice: str
    p_holm: float
    """The p-value, adjusted for the number of slices."""


class SuiteRead(Model):
    """A public benchmark whose rule this service implements; you supply the rows."""

    object: Literal["suite"] = "suite"
    id: str
    title: str
    rule: str
    source: str
    """Source of the rows."""
    licence: str
    row_form: str
    """The row form that the dataset must have."""
    upload: dict[str, str]
    """Query parameters of `POST /v1/datasets` for the columns that the rule needs."""
    counts: dict[str, int]
    """
    Number of rows of the published file by slice. With other numbers the result is `complete:
    false` and has no `overall`.
    """
    totals: list[int]
    """Rows of the published files, if slices vary."""
    is_provisional: bool
    """Whether the rule is not yet verified against the benchmark's own code."""


class TrainingSpec(Model):
    """How to train. Batch sizes count pairs, each of which has two sequences."""

    epochs: float = 1.0
    """Passes over the training pairs; may be a fraction."""
    max_steps: int | None = None
    """Number of optimiser steps; overrides epochs."""
    learning_rate: float = 0.0001
    """Highest learning rate of the schedule."""
    lr_scheduler: (
        Literal[
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "inverse_sqrt",
            "constant",
            "constant_with_warmup",
        ]
        | str
    ) = "linear"
    """How the learning rate changes over the steps, by the names of transformers."""
    lr_cycles: int | None = None
    """Cycles of cosine_with_restarts; null: 2."""
    warmup_ratio: float = 0.0
    """Share of the steps that warm up."""
    warmup_steps: int | None = None
    """Steps that warm up; instead of warmup_ratio."""
    optimizer: (
        Literal[
            "adamw_torch_fused",
            "adamw_torch",
            "sgd",
            "adagrad",
            "rmsprop",
            "adafactor",
        ]
        | str
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
    ) = "adamw_torch_fused"
    """An optimiser of torch, or one of bitsandbytes, which needs a CUDA GPU."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the optimiser."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""
    batch_size: int = 8
    """Pairs per optimiser step (effective batch size)."""
    per_device_batch_size: Literal["auto"] | int = "auto"
    """Pairs per forward pass; must divide batch_size."""
    max_length: int = 1024
    """
    Longest sequence of prompt and reply, in tokens. The default is lowered to the positions
    of the base model.
    """
    overlong: Literal["drop", "error", "truncate_left"] | str = "drop"
    """
    What happens to pairs longer than max_length, in training and evaluation. 'truncate_left'
    cuts the beginning of the prompt, and drops pairs whose replies alone are too long.
    """
    pad_token: str | None = None
    """
    Special token of the base model for padding. null: the tokenizer's pad token, or another
    one if texts end in it.
    """
    text_format: Literal["auto", "chat", "raw"] | str = "auto"
    """
    How datasets of texts are tokenised. 'chat': the prompt is a user turn and the reply an
    assistant turn of the chat template. 'raw': both are concatenated unchanged. 'auto' is
    'chat' if the base model has a chat template, unless rows have no prompt or are rendered
    already.
    """
    chat_template: str | None = None
    """Jinja template that replaces the base model's. It becomes the adapter's."""
    chat_template_kwargs: dict[str, bool | int | float | str] = {}
    """
    Variables of the chat template, such as {"enable_thinking": false}. Those of a row take
    precedence. They become a part of the adapter's chat template.
    """
    pairs_per_prompt: int | None = None
    """
    Largest number of training pairs per row with ranked replies, drawn with the seed; null:
    all. Evaluations use all pairs.
    """
    center_rewards_coefficient: float | None = None
    """
    Weight of the squared sum of a pair's rewards in the loss, which centres rewards at 0;
    null: no such term.
    """
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """
    Whether activations are computed again in the backward pass, which takes less memory and
    more time. 'auto': on GPUs.
    """
    precision: Literal["auto", "fp32", "bf16"] | str = "auto"
    """'auto' uses bf16 on GPUs that support it, and fp32 on CPU."""
    engine: Literal["auto", "shared_prefix", "stock"] | str = "auto"
    """
    'auto' uses the shared-prefix engine if it is exact, and otherwise 'stock', which is TRL's
    own training loop.
    """
    eval_steps: int | None = None
    """Optimiser steps between evaluations. Evaluations before and after training always run."""
    checkpoint_steps: int | None = None
    """Optimiser steps between checkpoints; null: a time interval."""
    resume: Literal["continue", "exact"] | str = "continue"
    """
    After an interruption, 'continue' resumes from the last checkpoint, with a warning if
    another GPU or number of threads will change the adapter's last bits. 'exact' trains from
    the start in that case.
    """
    logging_steps: int = 1
    """Optimiser steps between the logged training metrics. The last step is always logged."""
    early_stopping: EarlyStopping | None = None
    """
    Stop when the evaluation loss stops improving, and publish the best model; null: train to
    the last step.
    """
    seed: int = 42
    """Seed of the random head, the LoRA weights, dropout and the pairs' order."""


class UploadPartRead(Model):
    """One part of an upload."""

    object: Literal["dataset_upload_part"] = "dataset_upload_part"
    number: int
    bytes: int
    sha256: str
    """SHA-256 of the bytes as they were sent."""
    source_format: Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"] | str
    created_at: AwareDatetime


class UploadRead(Model):
    """An upload in parts."""

    object: Literal["dataset_upload"] = "dataset_upload"
    id: str
    name: str | None
    status: Literal["open", "finishing", "finished"] | str
    dataset_id: str | None
    """The dataset, once the upload is finished."""
    created_at: AwareDatetime
    expires_at: AwareDatetime
    """A day after the last part was sent."""


class UploadWithParts(Model):
    """An upload and the parts received so far, in the order of their numbers."""

    object: Literal["dataset_upload"] = "dataset_upload"
    id: str
    name: str | None
    status: Literal["open", "finishing", "finished"] | str
    dataset_id: str | None
    """The dataset, once the upload is finished."""
    created_at: AwareDatetime
    expires_at: AwareDatetime
    """A day after the last part was sent."""
    parts: list[UploadPartRead]


class UsageDayRead(Model):
    """Usage of a tenant on one day."""

    object: Literal["usage_day"] = "usage_day"
    day: date
    """Date in UTC."""
    device_seconds: float
    """
    Seconds for which jobs occupied a slot of a worker. An attempt counts on the day on which
    it ended.
    """
    stored_bytes: int
    """Bytes stored at the end of the day; for today, a few minutes ago."""
    scored_tokens: int


class WebhookRead(Model):
    """A webhook without its secret."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[
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
        | str
    ]
    created_at: AwareDatetime
    failing_since: AwareDatetime | None
    """Time of the first failed message since the last successful one."""
    disabled_at: AwareDatetime | None
    """
    When the webhook was disabled because it failed for too long. A successful test enables it
    again.
    """
    old_secret_expires_at: AwareDatetime | None
    """Until this time messages are also signed with the previous secret."""


class WebhookSecret(Model):
    """A webhook with its secret."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[
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
        | str
    ]
    created_at: AwareDatetime
    failing_since: AwareDatetime | None
    """Time of the first failed message since the last successful one."""
    disabled_at: AwareDatetime | None
    """
    When the webhook was disabled because it failed for too long. A successful test enables it
    again.
    """
    old_secret_expires_at: AwareDatetime | None
    """Until this time messages are also signed with the previous secret."""
    secret: str
    """Secret `whsec_…` that verifies messages (Standard Webhooks). It is shown only once."""


class WorkerCheck(Model):
    """The result of a check of a worker's machine."""

    check: str
    status: Literal["passed", "failed", "left_out"] | str
    detail: str


class WorkerRead(Model):
    """A live worker."""

    object: Literal["worker"] = "worker"
    id: str
    host: str
    queue: str
    state: str
    slots: int
    busy: int
    devices: list[dict[str, Any]]
    versions: dict[str, Any]
    doctor: list[WorkerCheck]
    """
    The quick checks of `plaudit doctor`, which run when the worker starts. Empty until they
    have ended.
    """
    jobs: list[str]
    """Ids of this tenant's jobs, evaluations and score batches that the worker runs."""
    started_at: AwareDatetime
    seen_at: AwareDatetime


class WorstPair(Model):
    """A pair in the wrong order; texts are truncated to 1,000 characters."""

    line: int
    slice: str | None
    margin: float
    """Score of the better reply minus that of the worse one."""
    chosen_score: float
    rejected_score: float
    prompt: str
    chosen: str
    rejected: str


class WorstPairs(Model):
    """The pairs that each model orders wrongly by the largest margin."""

    object: Literal["worst_pairs"] = "worst_pairs"
    models: dict[str, list[WorstPair]]


class AdapterRead(Model):
    """The adapter of a succeeded job."""

    object: Literal["adapter"] = "adapter"
    id: str
    job_id: str
    base_model: str
    revision: str | None
    bytes: int
    archive: AdapterArchive
    metrics: dict[str, Any]
    created_at: AwareDatetime
    files: list[AdapterFile]
    certificate: dict[str, Any]
    """
    Parity certificate: scores of the trained model compared with scores of the adapter after
    a reload in a fresh process.
    """
    reward_model: dict[str, Any]
    """Content of reward_model.json: what a client needs to score with the adapter."""
    servable: dict[str, ServableRead]
    """
    For `vllm`, `sglang` and `tei`: whether the server can serve the adapter, and why not.
    `POST /v1/score` serves every adapter.
    """


class ComparisonRead(Model):
    """Two models on the rows that both evaluations scored."""

    pairs: int
    accuracy_a: float
    accuracy_b: float
    difference: Difference
    disagreements: Disagreements
    mcnemar: McNemar
    object: Literal["comparison"] = "comparison"
    a: ComparedModel
    b: ComparedModel
    dataset_sha256: str
    dataset_uses: int
    """
    Number of succeeded evaluations of this tenant on these rows. The more often a set is used
    for selection, the less its p-values mean.
    """
    rows: int
    rows_only_in_a: int
    rows_only_in_b: int
    prompts: int
    interval_method: Literal["bootstrap", "normal"] | str
    slices: list[SliceComparison]


class DatasetRead(Model):
    """Validated preference pairs."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str | None
    source_format: Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"] | str
    """File format of the upload."""
    shape: str
    """Recognised shape of the upload; docs/data.md lists all shapes."""
    row_form: Literal["pairs", "ranked"] | str
    """pairs: one chosen and one rejected reply per row; ranked: several ranked replies per row."""
    format: Literal["text", "conversational"] | str
    prompt: Literal["explicit", "implicit"] | str
    columns: list[str]
    """Columns of the stored rows."""
    has_margin: bool
    slices: dict[str, int]
    """Number of rows by slice label."""
    ignored_columns: list[str]
    """Columns of the upload that were not stored."""
    chat_template_kwargs: dict[str, bool | int | float | str]
    """
    Variables of the chat template that the upload sets for all rows. Those of a job and of a
    row take precedence.
    """
    skipped: list[SkippedRowsRead]
    """Skipped rows by reason."""
    warnings: list[DatasetWarningRead]
    row_count: int
    pair_count: int
    """Number of pairs: at least the number of rows."""
    sha256: str
    """SHA-256 of the canonical JSONL that jobs train on."""
    bytes: int
    upload_sha256: str
    """SHA-256 of the file as it was uploaded."""
    upload_bytes: int
    origin: str | None
    """Source of an imported dataset: `hub:org/name@commit#split`."""
    created_at: AwareDatetime


class EvaluationItem(Model):
    """An evaluation in a list."""

    object: Literal["evaluation"] = "evaluation"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running evaluation."""
    progress: JobProgress
    """Steps are scored replies."""
    base_model: str
    adapters: list[str]
    dataset: str
    suite: str | None
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    failure: JobFailure | None


class EvaluationRead(Model):
    """An evaluation with its spec and result."""

    object: Literal["evaluation"] = "evaluation"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running evaluation."""
    progress: JobProgress
    """Steps are scored replies."""
    base_model: str
    adapters: list[str]
    dataset: str
    suite: str | None
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    failure: JobFailure | None
    spec: EvaluationSpec
    result: dict[str, Any] | None
    """
    `metrics`, `suite`, `probes`, `left_out`, `truncated` and `training_overlap` of each
    model, and the `baselines` random, longest and shortest. Null until the evaluation
    succeeds. docs/judging.md explains every number.
    """
    dataset_uses: int
    """
    Number of succeeded evaluations of this tenant on the same rows, including this one. A
    held-out set loses its value if many models are selected with it.
    """


class EvaluationReport(Model):
    """The numbers and texts of an evaluation's report page."""

    object: Literal["evaluation_report"] = "evaluation_report"
    evaluation: EvaluationRead
    worst_pairs: dict[str, list[WorstPair]]
    plots: dict[str, dict[str, str]]
    """SVG by model and name."""


class JobItem(Model):
    """A job in a list."""

    object: Literal["job"] = "job"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running job."""
    progress: JobProgress
    base_model: str
    priority: int
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    adapter_id: str | None
    parent_job_id: str | None
    failure: JobFailure | None
    metadata: dict[str, str]


class Problem(Model):
    """An error (RFC 9457)."""

    type: str
    """A URI that identifies the kind of error."""
    title: str
    status: int
    detail: str
    code: str
    """Stable identifier of the error; programs should switch on it."""
    instance: str
    request_id: str
    hint: str | None = None
    errors: list[ProblemField] = Field([], validate_default=True)


class RewardJobSpec(Model):
    """A reward-model training job."""

    name: str | None = None
    """For people; need not be unique."""
    base_model: str
    """An id from GET /v1/base-models."""
    base_model_head: Literal["auto", "reuse", "new"] | str = "auto"
    """
    'auto' starts from the trained reward head of the base model, if its files have one that
    fits, and otherwise from a random head; 'reuse' refuses base models without such a head;
    'new' always starts from a random head.
    """
    train_dataset: str
    """The id of the dataset to train on, from GET /v1/datasets."""
    eval_dataset: str | EvalFraction | None = None
    """The id of a dataset, or a fraction of the training pairs such as {"fraction": 0.1}."""
    eval_datasets: dict[str, str] = {}
    """
    Further datasets to evaluate on, by name, besides eval_dataset or without it. The metrics
    of {"maths": "ds_…"} are eval_maths/accuracy and so on.
    """
    lora: LoraSpec = Field({}, validate_default=True)
    training: TrainingSpec = Field({}, validate_default=True)
    quantization: Literal["none", "8bit", "4bit"] | str = "none"
    """
    How bitsandbytes stores the linear layers of the base model: LLM.int8 or NF4; needs a CUDA
    GPU. The adapter and the head are not quantised.
    """
    resources: Resources = Field({}, validate_default=True)
    priority: int = 0
    """Jobs with a higher priority run first."""
    metadata: dict[str, str] = {}
    """Texts by name, for people and to filter lists of jobs."""


class ScoreBatchRead(Model):
    """A score batch with its spec and result."""

    object: Literal["score_batch"] = "score_batch"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running batch."""
    progress: JobProgress
    """Steps are scored replies."""
    base_model: str
    adapter: str
    dataset: str
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    failure: JobFailure | None
    spec: ScoreBatchSpec
    result: ScoreBatchResult | None
    """Null until the batch succeeds."""


class ScoreResponse(Model):
    """All scores of a request."""

    object: Literal["list"] = "list"
    model: str
    score_spec: str
    """Digest of everything that the scores depend on."""
    data: list[ScoreData]
    usage: ScoreUsage


class Usage(Model):
    """The days with any usage, newest first."""

    object: Literal["list"] = "list"
    data: list[UsageDayRead]


class JobPreview(Model):
    """The plan of a spec in a dry run; nothing was stored."""

    trainable_parameters: int
    total_parameters: int
    steps: int
    """Optimiser steps. A dry run with a dataset report leaves out overlong pairs."""
    estimated_seconds: float | None
    """
    Duration of training, by the speed of the newest finished job of this base model; null if
    there is none.
    """
    object: Literal["job_preview"] = "job_preview"
    spec: RewardJobSpec
    plan: dict[str, Any]
    adapter_config: dict[str, Any]
    """Keyword arguments of peft.LoraConfig."""
    reports: dict[str, dict[str, Any]]
    """
    Reports of a worker: `dataset` (lengths in tokens, duplicates, contradictions, …) and
    `memory` (an estimate); empty if no worker made them in time. For a large dataset they
    first cover a sample: `rows_looked_at` of `rows_in_all` rows.
    """
    warnings: list[JobWarning]


class JobRead(Model):
    """A job with its spec, plan and warnings."""

    object: Literal["job"] = "job"
    id: str
    name: str | None
    status: (
        Literal[
            "queued",
            "running",
            "pausing",
            "cancelling",
            "paused",
            "succeeded",
            "failed",
            "cancelled",
        ]
        | str
    )
    phase: (
        Literal[
            "fetching",
            "checking",
            "tokenizing",
            "training",
            "evaluating",
            "saving",
            "verifying",
            "publishing",
        ]
        | str
        | None
    )
    """The current activity of a running job."""
    progress: JobProgress
    base_model: str
    priority: int
    attempt: int
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    adapter_id: str | None
    parent_job_id: str | None
    failure: JobFailure | None
    metadata: dict[str, str]
    worker: str | None
    """The worker that runs the job."""
    notes: str | None
    """What people wrote about the job."""
    warnings: list[JobWarning]
    spec: RewardJobSpec
    """As submitted, with defaults filled in."""
    plan: dict[str, Any] | None
    """
    The exact arguments of LoraConfig and RewardConfig; null until the base model has been
    inspected.
    """
