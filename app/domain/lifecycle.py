"""States, phases and failures of jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class JobStatus(StrEnum):
    """The stored status. The API also shows ``cancelling`` and ``pausing``."""

    QUEUED = "queued"  # waits for a worker to claim it
    RUNNING = "running"  # a worker holds its lease
    PAUSED = "paused"  # keeps its checkpoint, uses no device
    SUCCEEDED = "succeeded"  # its adapter is published; final
    FAILED = "failed"  # has a failure; final
    CANCELLED = "cancelled"  # stopped by its owner; final


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
LIVE = tuple(status for status in JobStatus if status not in TERMINAL)

#: The allowed changes of the status. Tests check every statement of the queue against this table.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,
            JobStatus.PAUSED,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


class DesiredState(StrEnum):
    """The state that the owner requested for an unfinished job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Phase(StrEnum):
    """The current activity of a running job, for display."""

    FETCHING = "fetching"
    CHECKING = "checking"
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"


class FailureCategory(StrEnum):
    """Who can fix the cause of a failure."""

    USER = "user"
    RESOURCE = "resource"
    INFRASTRUCTURE = "infrastructure"
    INTERNAL = "internal"


class Failure(NamedTuple):
    """Category and retry policy of a failure code, and a hint for the owner of the job."""

    category: FailureCategory
    is_retryable: bool
    hint: str


class FailureCode(StrEnum):
    """Why a job failed. The values are stable: clients switch on them."""

    INVALID_SPEC = "invalid_spec"
    DATASET_INVALID = "dataset_invalid"
    PAIRS_OVERLONG = "pairs_overlong"
    SOURCE_NOT_FOUND = "source_not_found"
    SOURCE_TOO_LARGE = "source_too_large"
    QUOTA_EXCEEDED = "quota_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_UNSUPPORTED = "model_unsupported"
    MODEL_CHANGED = "model_changed"
    GATED_NO_ACCESS = "gated_no_access"
    ENGINE_UNSUPPORTED = "engine_unsupported"
    QUANTIZATION_UNAVAILABLE = "quantization_unavailable"
    NAN_LOSS = "nan_loss"
    NOTHING_TRAINED = "nothing_trained"
    CUDA_OOM = "cuda_oom"
    OUT_OF_MEMORY = "out_of_memory"
    ARTIFACT_TOO_LARGE = "artifact_too_large"
    TIMED_OUT = "timed_out"
    HUB_UNAVAILABLE = "hub_unavailable"
    DISK_FULL = "disk_full"
    HOST_ERROR = "host_error"
    CUDA_ERROR = "cuda_error"
    WORKER_LOST = "worker_lost"
    TRAINER_CRASHED = "trainer_crashed"
    POISON = "poison"
    NO_PROGRESS = "no_progress"
    SCORE_MISMATCH = "score_mismatch"
    INTERNAL = "internal"

    @property
    def failure(self) -> Failure:
        """Category, retry policy and hint of this code."""
        return FAILURES[self]


def _by_user(hint: str) -> Failure:
    return Failure(FailureCategory.USER, is_retryable=False, hint=hint)


def _by_resources(hint: str) -> Failure:
    return Failure(FailureCategory.RESOURCE, is_retryable=False, hint=hint)


def _by_infrastructure(hint: str) -> Failure:
    return Failure(FailureCategory.INFRASTRUCTURE, is_retryable=False, hint=hint)


def _internal(hint: str) -> Failure:
    return Failure(FailureCategory.INTERNAL, is_retryable=False, hint=hint)


def _retried(advice: str) -> Failure:
    """Return a failure that is retried; its hint is shown after the last attempt has failed."""
    hint = f"{advice}, then clone the job. The service has already retried it."
    return Failure(FailureCategory.INFRASTRUCTURE, is_retryable=True, hint=hint)


FAILURES: dict[FailureCode, Failure] = {
    FailureCode.INVALID_SPEC: _by_user("Correct the named fields and submit again."),
    FailureCode.DATASET_INVALID: _by_user("Correct the named lines and upload the dataset again."),
    FailureCode.PAIRS_OVERLONG: _by_user(
        "Raise training.max_length. The dataset report shows the lengths of its pairs."
    ),
    FailureCode.SOURCE_NOT_FOUND: _by_user("Correct the source, its config or its split."),
    FailureCode.SOURCE_TOO_LARGE: _by_user(
        "Upload a part of the data, or ask the operator for higher limits."
    ),
    FailureCode.QUOTA_EXCEEDED: _by_user(
        "Delete data that you no longer need, or ask the operator for a higher quota."
    ),
    FailureCode.MODEL_NOT_FOUND: _by_user(
        "Choose a model from GET /v1/base-models, or ask the operator to add this one."
    ),
    FailureCode.MODEL_UNSUPPORTED: _by_user(
        "Choose another base model, or follow the advice in the detail."
    ),
    FailureCode.MODEL_CHANGED: _by_user(
        "Ask the operator for a new catalogue entry for this model, then submit again."
    ),
    FailureCode.GATED_NO_ACCESS: _by_user("Ask the operator for a hub token that may read it."),
    FailureCode.ENGINE_UNSUPPORTED: _by_user(
        'Use training.engine "auto", which falls back to "stock", or "stock".'
    ),
    FailureCode.QUANTIZATION_UNAVAILABLE: _by_user(
        'Use quantization "none", or a CUDA worker with bitsandbytes.'
    ),
    FailureCode.NAN_LOSS: _by_user(
        "Lower training.learning_rate, or check the margins of the dataset."
    ),
    FailureCode.NOTHING_TRAINED: _by_user(
        "No optimiser step changed the adapter. The detail names the probable cause."
    ),
    FailureCode.CUDA_OOM: _by_resources(
        "Smaller passes were tried. Lower training.max_length, set quantization, or choose a "
        "smaller base model; with engine 'stock', lower training.per_device_batch_size."
    ),
    FailureCode.OUT_OF_MEMORY: _by_resources(
        "Use a smaller base model or batch size, or a worker with more memory."
    ),
    FailureCode.ARTIFACT_TOO_LARGE: _by_resources(
        "Lower lora.r, save fewer modules, or ask the operator to raise the limit."
    ),
    FailureCode.TIMED_OUT: _by_resources(
        "Raise resources.max_runtime_seconds or train for fewer steps. For an inspection, ask the "
        "operator to raise the time limit."
    ),
    FailureCode.HUB_UNAVAILABLE: _retried("Check the worker's connection to the hub"),
    FailureCode.DISK_FULL: _retried("Free disk space on the worker"),
    FailureCode.HOST_ERROR: _retried("Check the disk, the limits and the version of the worker"),
    FailureCode.CUDA_ERROR: _retried("Check the worker's GPU"),
    FailureCode.WORKER_LOST: _retried("Check that workers keep running and reach the database"),
    FailureCode.TRAINER_CRASHED: _retried("Read the logs of the job and of the worker"),
    FailureCode.POISON: _by_infrastructure(
        "The job's workers died repeatedly. Read its logs, then clone the job."
    ),
    FailureCode.NO_PROGRESS: _by_infrastructure(
        "Attempts ended without a new checkpoint. Lower training.checkpoint_steps."
    ),
    FailureCode.SCORE_MISMATCH: _internal(
        "The reloaded adapter gave different scores, so it was not published. Report it to the "
        "operator with the job's id."
    ),
    FailureCode.INTERNAL: _internal(
        "The service failed unexpectedly. Report it to the operator with the job's id."
    ),
}
