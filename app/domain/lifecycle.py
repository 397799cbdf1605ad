"""What a job can be, what its owner may want of it, and how it can fail."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class JobStatus(StrEnum):
    """The persisted status; ``cancelling`` and ``pausing`` are only shown."""

    QUEUED = "queued"  # waits for a worker to claim it
    RUNNING = "running"  # a worker holds its lease
    PAUSED = "paused"  # keeps its checkpoint, holds no device
    SUCCEEDED = "succeeded"  # its adapter is published; never changes again
    FAILED = "failed"  # has a failure; never changes again
    CANCELLED = "cancelled"  # its owner stopped it; never changes again


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
LIVE = tuple(status for status in JobStatus if status not in TERMINAL)

#: Every move the status column may make; each statement of the repository is held against it.
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
    """What the owner wants of a job that is not finished."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Phase(StrEnum):
    """What a running job does right now, for people."""

    FETCHING = "fetching"
    CHECKING = "checking"
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"


class FailureCategory(StrEnum):
    """Who can do something about a failure."""

    USER = "user"
    RESOURCE = "resource"
    INFRASTRUCTURE = "infrastructure"
    INTERNAL = "internal"


class Failure(NamedTuple):
    """How a failure code is treated and what its owner should do next."""

    category: FailureCategory
    is_retryable: bool
    hint: str


_USER, _RESOURCE = FailureCategory.USER, FailureCategory.RESOURCE
_INFRA, _INTERNAL = FailureCategory.INFRASTRUCTURE, FailureCategory.INTERNAL


class FailureCode(StrEnum):
    """Every way a job ends badly. Stable: clients switch on it."""

    INVALID_SPEC = "invalid_spec"
    DATASET_INVALID = "dataset_invalid"
    PAIRS_OVERLONG = "pairs_overlong"
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
        """The treatment of this code."""
        return FAILURES[self]


def _retried(advice: str) -> Failure:
    """Its hint is seen only once the last attempt has failed too, so it does not say "wait"."""
    return Failure(_INFRA, True, f"{advice}, then clone the job: it was tried several times.")


FAILURES: dict[FailureCode, Failure] = {
    FailureCode.INVALID_SPEC: Failure(_USER, False, "Correct the named fields and submit again."),
    FailureCode.DATASET_INVALID: Failure(
        _USER, False, "Correct the named lines and upload the dataset again."
    ),
    FailureCode.PAIRS_OVERLONG: Failure(
        _USER, False, "Raise training.max_length; the dataset's report says how long its pairs are."
    ),
    FailureCode.MODEL_NOT_FOUND: Failure(
        _USER, False, "Choose a model from GET /v1/base-models, or ask the operator to add it."
    ),
    FailureCode.MODEL_UNSUPPORTED: Failure(
        _USER, False, "Choose another base model, or do what the detail says."
    ),
    FailureCode.MODEL_CHANGED: Failure(
        _USER, False, "Ask the operator for a new catalogue entry of this model, and submit again."
    ),
    FailureCode.GATED_NO_ACCESS: Failure(
        _USER, False, "Ask the operator for a hub token that may read this model."
    ),
    FailureCode.ENGINE_UNSUPPORTED: Failure(
        _USER, False, 'Use training.engine "auto", which falls back by itself, or "stock".'
    ),
    FailureCode.QUANTIZATION_UNAVAILABLE: Failure(
        _USER, False, 'Use quantization "none", or run on a CUDA worker with bitsandbytes.'
    ),
    FailureCode.NAN_LOSS: Failure(
        _USER, False, "Lower training.learning_rate or check the margins of the dataset."
    ),
    FailureCode.NOTHING_TRAINED: Failure(
        _USER, False, "Give more rows or steps: no optimiser step changed the adapter."
    ),
    FailureCode.CUDA_OOM: Failure(
        _RESOURCE, False, "Lower training.per_device_batch_size or training.max_length."
    ),
    FailureCode.OUT_OF_MEMORY: Failure(
        _RESOURCE, False, "Use a smaller base model or batch, or a worker with more memory."
    ),
    FailureCode.ARTIFACT_TOO_LARGE: Failure(
        _RESOURCE, False, "Lower lora.r or the modules to save, or raise the operator's limit."
    ),
    FailureCode.TIMED_OUT: Failure(
        _RESOURCE,
        False,
        "Raise resources.max_runtime_seconds or train fewer steps; what an inspection may take is "
        "the operator's to raise.",
    ),
    FailureCode.HUB_UNAVAILABLE: _retried("Check the worker's network and the hub"),
    FailureCode.DISK_FULL: _retried("Free disk space on the worker"),
    FailureCode.HOST_ERROR: _retried("Check the worker's disk, limits and version"),
    FailureCode.CUDA_ERROR: _retried("Check the worker's GPU"),
    FailureCode.WORKER_LOST: _retried("Check that workers stay up and reach the database"),
    FailureCode.TRAINER_CRASHED: _retried("Read the job's logs and the worker's"),
    FailureCode.POISON: Failure(
        _INFRA, False, "Its workers died repeatedly: read the logs, then clone the job."
    ),
    FailureCode.NO_PROGRESS: Failure(
        _INFRA, False, "Attempts ended without a newer checkpoint: lower checkpoint_steps."
    ),
    FailureCode.SCORE_MISMATCH: Failure(
        _INTERNAL, False, "The reloaded adapter scored differently, so it was not published."
    ),
    FailureCode.INTERNAL: Failure(
        _INTERNAL, False, "A defect of the service: report it with the job's id."
    ),
}
