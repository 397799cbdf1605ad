"""Job kinds: one row for each kind of work that a worker can do.

To add a kind, add

1. a row to ``KINDS`` below,
2. a handler ``worker/supervisor/kinds/<action>.py`` with ``run(steps)``, which prepares the inputs,
   runs the trainer and ends the job, and
3. a task ``worker/trainer/tasks/<action>.py`` with ``run(order, channel)``, which does the work in
   the trainer process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, false, or_

from app.core.broker import preflight_queue, transfer_queue
from app.core.settings import Settings
from app.domain.spec import Resources

DAY_MS = 86_400_000


class UnknownKindError(Exception):
    """This version of Plaudit has no such job kind."""


@dataclass(frozen=True)
class JobKind:
    """How jobs of one kind are queued, limited, shown and kept."""

    #: Stored in ``jobs.kind``; at most 16 characters.
    name: str
    #: Names the modules of the handler and the task, and the action in a work order.
    action: str
    #: The queue that the jobs wait in.
    queue: Callable[[Settings], str]
    #: Whether a running job counts against the tenant's ``quota_running``.
    counts_against_quota: bool
    #: Whether /v1/jobs shows the jobs.
    is_listed: bool
    #: Whether a job that is stopped is given time to save a checkpoint.
    saves_checkpoints: bool
    #: Seconds that a job with this spec may run, in all attempts together.
    runtime_seconds: Callable[[Settings, Mapping[str, Any]], int]
    #: Bytes of memory that the trainer process may write to; None for no limit.
    memory_bytes: Callable[[Settings], int | None]
    #: Failed attempts in a row after which a job fails.
    max_failures: Callable[[Settings], int]
    #: Milliseconds for which finished jobs are kept; None keeps them until they are deleted.
    retention_ms: int | None
    #: Whether the memory of the trainer is limited relative to its inputs, if no setting does.
    is_bounded_by_inputs: bool = False
    #: How soon the kernel ends the trainer when memory runs short, from 0 to 1000. The supervisor
    #: and the API have 0.
    oom_score_adj: int = 500
    #: Webhooks announce changes of status as ``<topic>.<status>``, and /v1/queue and /v1/workers
    #: show the jobs. None for kinds that appear in neither.
    topic: str | None = None
    #: Prefix of the id under which the API shows the job.
    id_prefix: str = "job"

    def public_id(self, job_id: str) -> str:
        """Return the id under which the API shows a job: the stored one with another prefix."""
        return f"{self.id_prefix}_{job_id.partition('_')[2]}"


def _training_seconds(settings: Settings, spec: Mapping[str, Any]) -> int:
    # The row holds the spec as submitted, without defaults.
    resources = Resources.model_validate(spec.get("resources", {}))
    return min(resources.max_runtime_seconds, settings.quota_runtime_seconds)


TRAIN = JobKind(
    name="train",
    action="train",
    queue=lambda settings: settings.queue,
    counts_against_quota=True,
    is_listed=True,
    saves_checkpoints=True,
    runtime_seconds=_training_seconds,
    memory_bytes=lambda settings: settings.trainer_memory_bytes,
    max_failures=lambda settings: settings.max_failures,
    retention_ms=None,
    topic="job",
)
#: Inspects a base model and, with datasets, estimates the training on them.
INSPECT = JobKind(
    name="preflight",
    action="inspect",
    queue=preflight_queue,
    counts_against_quota=False,
    is_listed=False,
    saves_checkpoints=False,
    runtime_seconds=lambda settings, _spec: settings.preflight_seconds,
    memory_bytes=lambda settings: settings.preflight_memory_bytes,
    max_failures=lambda settings: settings.max_failures,
    # Data are immutable, so the result of an inspection is reused for a week.
    retention_ms=7 * DAY_MS,
    is_bounded_by_inputs=True,
    oom_score_adj=1000,
)
MERGE = JobKind(
    name="merge",
    action="merge",
    queue=lambda settings: settings.queue,
    counts_against_quota=True,
    is_listed=False,
    saves_checkpoints=False,
    runtime_seconds=_training_seconds,
    memory_bytes=lambda settings: settings.trainer_memory_bytes,
    max_failures=lambda settings: settings.max_failures,
    retention_ms=None,
)
#: Fetches a dataset from the hub; the supervisor does it without a trainer.
IMPORT = JobKind(
    name="import",
    action="fetch_dataset",
    queue=transfer_queue,
    counts_against_quota=False,
    is_listed=False,
    saves_checkpoints=False,
    runtime_seconds=lambda settings, _spec: settings.transfer_seconds,
    memory_bytes=lambda _settings: None,
    max_failures=lambda settings: settings.max_failures,
    retention_ms=30 * DAY_MS,
    id_prefix="imp",
)
#: Uploads an adapter to the hub; the supervisor does it without a trainer.
PUSH = replace(IMPORT, name="push", action="push_adapter", id_prefix="push")
#: Judges adapters on a dataset.
EVALUATE = JobKind(
    name="evaluate",
    action="evaluate",
    queue=lambda settings: settings.queue,
    counts_against_quota=True,
    is_listed=False,
    saves_checkpoints=True,
    runtime_seconds=lambda settings, _spec: settings.quota_runtime_seconds,
    memory_bytes=lambda settings: settings.trainer_memory_bytes,
    max_failures=lambda settings: settings.max_failures,
    retention_ms=None,
    topic="evaluation",
    id_prefix="eval",
)
#: Scores a dataset with an adapter.
SCORE = replace(EVALUATE, name="score", action="score", topic="score_batch", id_prefix="batch")
KINDS: dict[str, JobKind] = {
    kind.name: kind for kind in (TRAIN, INSPECT, MERGE, IMPORT, PUSH, EVALUATE, SCORE)
}


def find(name: str) -> JobKind | None:
    """Return the kind with this name; None when another version of Plaudit created the job."""
    return KINDS.get(name)


def get(name: str) -> JobKind:
    """Return the kind with this name.

    Raises:
        UnknownKindError: another version of Plaudit created the job.
    """
    if (kind := find(name)) is None:
        raise UnknownKindError(
            f"jobs of kind {name!r} need another version of Plaudit than this worker's"
        )
    return kind


def for_action(action: str) -> JobKind | None:
    """Return the kind whose trainer performs this action; None for a part of a job."""
    return next((kind for kind in KINDS.values() if kind.action == action), None)


def listed_names() -> tuple[str, ...]:
    """Return the names of the kinds that the API shows as jobs."""
    return tuple(kind.name for kind in KINDS.values() if kind.is_listed)


def is_listed(column: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """Return the condition that a kind column names a listed kind."""
    return _is_any_of(column, listed_names())


def is_announced(column: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """Return the condition that a kind column names a kind that webhooks and the queue show."""
    return _is_any_of(column, tuple(kind.name for kind in KINDS.values() if kind.topic))


def is_free_of_quota(column: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """Return the condition that a kind column names a kind that does not count against quotas."""
    free = tuple(kind.name for kind in KINDS.values() if not kind.counts_against_quota)
    return _is_any_of(column, free)


def _is_any_of(column: SQLColumnExpression[str], names: tuple[str, ...]) -> ColumnElement[bool]:
    # Equality, not IN: with one name the statement is the same each time, and so is its plan.
    return or_(false(), *(column == name for name in names))
