"""Choose the checkpoint from which a run continues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.plan import TrainingPlan
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.trainer.training.checkpoints import (
    CheckpointRefusedError,
    Manifest,
    check_checkpoint,
    differences,
    restore_best,
)


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from."""

    directory: Path
    manifest: Manifest


def find_resume_point(
    order: WorkOrder, plan: TrainingPlan, fingerprint: dict[str, Any], channel: Channel
) -> ResumePoint | None:
    """Return the first of the order's checkpoints that is intact and belongs to this run."""
    for directory in map(Path, order.checkpoints):
        try:
            manifest = check_checkpoint(directory, fingerprint, is_exact=plan.resume == "exact")
        except CheckpointRefusedError as error:
            message = (
                f"a checkpoint cannot be used: {error}. Training continues from an older "
                "checkpoint, or from the start if there is none"
            )
            channel.send(
                Noted(code=WarningCode.CHECKPOINT_REFUSED, message=message[:2000], is_warning=True)
            )
            continue
        _warn_of_other_machine(manifest, fingerprint, channel)
        restore_best(directory, manifest, Path())
        return ResumePoint(directory, manifest)
    return None


def _warn_of_other_machine(
    manifest: Manifest, fingerprint: dict[str, Any], channel: Channel
) -> None:
    saved = manifest.resume_fingerprint
    different = differences(fingerprint, saved)
    if not different or manifest.is_finished:
        return
    what = ", ".join(f"{k} {saved.get(k)}, now {fingerprint.get(k)}" for k in different)
    message = (
        f"training continues from a checkpoint of another machine ({what}): the adapter's last "
        "bits will differ from those of an undisturbed run"
    )
    channel.send(Noted(code=WarningCode.RESUMED_ELSEWHERE, message=message[:2000], is_warning=True))
