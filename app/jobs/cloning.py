"""Clone a job: its spec with overrides, and on request its last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.database import new_id
from app.core.errors import InvalidError
from app.domain.spec import RewardJobSpec
from app.jobs.errors import JobStateError
from app.models import Checkpoint, Job, StoredFile

#: The fields that a clone may change and still resume from its parent's checkpoint.
RESUMABLE = frozenset(
    {
        "/name",
        "/priority",
        "/metadata",
        "/training/epochs",
        "/training/max_steps",
        "/resources/max_runtime_seconds",
    }
)


def clone_spec(parent: Job, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parent's spec with ``overrides`` merged into it; it is not validated yet."""
    merged: dict[str, Any] = _merge(parent.spec, overrides)
    return merged


def check_checkpoint(parent: Job, overrides: Mapping[str, Any]) -> None:
    """Raise an error if a clone with these overrides cannot resume from the parent's checkpoint.

    Raises:
        JobStateError: the parent has no checkpoint.
        InvalidError: an override changes what the checkpoint depends on.
    """
    if parent.checkpoint_id is None:
        raise _no_checkpoint(parent)
    if found := sorted(_paths(overrides) - RESUMABLE):
        raise InvalidError(
            f"{found[0]} cannot change when a clone resumes from a checkpoint.",
            hint=f"Omit from_checkpoint, or change only {', '.join(sorted(RESUMABLE))}.",
        )


def check_length(session: Session, parent: Job, spec: RewardJobSpec) -> None:
    """Raise an error if a clone would end before the checkpoint that it resumes from.

    Raises:
        InvalidError
    """
    step = session.scalar(select(Checkpoint.step).where(Checkpoint.id == parent.checkpoint_id))
    max_steps = spec.training.max_steps
    if step is not None and max_steps is not None and max_steps <= step:
        raise InvalidError(
            f"training.max_steps is {max_steps}, but the checkpoint of {parent.id} is that of step "
            f"{step}, so no step is left to train.",
            hint=f"Use more than {step} steps, or omit from_checkpoint.",
        )


def copy_checkpoint(session: Session, parent: Job, job: Job) -> None:
    """Copy the parent's last checkpoint to ``job``; the stored files are shared.

    Raises:
        JobStateError: the checkpoint was deleted.
    """
    # Without the lock it and its files could be deleted before this transaction commits.
    source = session.scalar(
        select(Checkpoint)
        .where(Checkpoint.id == parent.checkpoint_id)
        .with_for_update(read=True, key_share=True)
    )
    if source is None:
        raise _no_checkpoint(parent)
    copy = Checkpoint(
        id=new_id("ckpt"),
        job_id=job.id,
        attempt=0,
        step=source.step,
        bytes=source.bytes,
        metrics=source.metrics,
    )
    session.add(copy)
    for file in session.scalars(select(StoredFile).where(StoredFile.owner_id == source.id)):
        session.add(
            StoredFile(
                owner_id=copy.id,
                name=file.name,
                blob_id=file.blob_id,
                sha256=file.sha256,
                size=file.size,
            )
        )
    job.checkpoint_id = copy.id
    session.flush()


def _no_checkpoint(parent: Job) -> JobStateError:
    return JobStateError(
        f"{parent.id} has no checkpoint.",
        hint="Omit from_checkpoint. A cancel with keep_checkpoint keeps a job's checkpoint.",
    )


def _merge(base: Any, patch: Any) -> Any:
    """Merge by RFC 7396: null removes a field."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _paths(patch: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in patch.items():
        path = f"{prefix}/{key}"
        if isinstance(value, Mapping) and path in ("/training", "/resources"):
            found |= _paths(value, path)
        else:
            found.add(path)
    return found
