"""Complete checkpoints with a manifest of digests, and reject damaged or foreign ones.

transformers writes a checkpoint in place and resumes from a damaged one without an error: without
optimizer.pt, or with one tensor missing, training continues to another result. Therefore the
manifest is written last, and a run resumes only from a checkpoint that matches its manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.domain.plan import TrainingPlan
from app.domain.progress import FileEntry
from worker.ipc.order import MANIFEST
from worker.reward_model.file_digests import file_entries, file_entry
from worker.reward_model.packaged_adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from worker.trainer.library_versions import library_versions

#: Every checkpoint contains the best weights so far: a resumed run may publish them, on a machine
#: that does not have the checkpoint that they come from.
BEST_WEIGHTS = "best_adapter_model.safetensors"
#: Files that a resume needs; the tokenizer, a model card and pickled arguments are removed.
NEEDED_FILES = (
    ADAPTER_WEIGHTS,
    ADAPTER_CONFIG,
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)


class Manifest(BaseModel):
    """The manifest of a checkpoint: its state, and the digests of its files."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)

    step: int
    best_step: int | None
    is_finished: bool  # training has ended: continue with the evaluation
    resume_fingerprint: dict[str, Any] = Field(alias="same")
    tokens: int  # number of tokens trained on so far; TRL does not store it
    metrics: dict[str, float]  # metrics of the untrained model, and of the last logged step
    activation_budget_bytes: int | None = None  # it may have been lowered during the run
    files: list[FileEntry]


@dataclass(frozen=True)
class CheckpointState:
    """The state of a run at a checkpoint, for the manifest."""

    step: int
    is_finished: bool
    resume_fingerprint: dict[str, Any]
    tokens: int
    metrics: dict[str, float]
    activation_budget_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """Conditions that determine a run's bytes, besides its plan and the libraries."""

    device: str  # "cpu" or "cuda"
    threads: int
    gpu: str | None  # name and compute capability
    activation_budget_bytes: int | None  # decides how batches are split into passes


#: Digests of the plan, and of the plan without the length of the training.
PLAN, PLAN_OF_ANY_LENGTH = "plan_sha256", "plan_of_any_length_sha256"
#: Keys of a fingerprint that change only the last bits of a result.
INEXACT_KEYS = ("threads", "gpu", "activation_budget_bytes")


class CheckpointRefusedError(Exception):
    """A checkpoint is damaged, or belongs to another run."""


def resume_fingerprint(plan: TrainingPlan, machine: Machine, backend: str) -> dict[str, Any]:
    """Return the values that must be equal in a checkpoint and in a run that resumes from it.

    On a CPU, a resumed run then ends with the bytes of an uninterrupted one. On a GPU this is not
    guaranteed: kernels may add in another order every time.
    """
    length = {"num_train_epochs": 0, "max_steps": 0}
    of_any_length = plan.model_copy(
        update={"reward": {**plan.reward, **length}, "max_runtime_seconds": 0}
    )
    return {
        PLAN: _digest(plan),
        PLAN_OF_ANY_LENGTH: _digest(of_any_length),
        "versions": library_versions(),
        "engine": backend,  # the key in stored checkpoints
        **asdict(machine),
    }


def _digest(plan: TrainingPlan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def differences(fingerprint: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """Return the keys in which two fingerprints differ.

    A clone may train longer or shorter than the run that saved the checkpoint.
    """
    found = {k for k in {*fingerprint, *saved} if fingerprint.get(k) != saved.get(k)}
    # Checkpoints of earlier versions have the first digest alone.
    is_plan_known = PLAN not in found or (
        PLAN_OF_ANY_LENGTH in saved and PLAN_OF_ANY_LENGTH not in found
    )
    found -= {PLAN, PLAN_OF_ANY_LENGTH}
    return sorted(found if is_plan_known else found | {PLAN})


def finalize_checkpoint(
    directory: Path, state: CheckpointState, best: Path | None
) -> list[FileEntry]:
    """Remove unneeded files, add the best weights, and write the manifest.

    ``best`` is the directory of the best checkpoint so far, which may be this one.
    Returns the files, including the manifest.
    """
    for path in directory.iterdir():
        if path.name not in NEEDED_FILES:
            path.unlink()
    if best is not None and best.name != directory.name:
        shutil.copyfile(best / ADAPTER_WEIGHTS, directory / BEST_WEIGHTS)
    files = file_entries(directory)
    manifest = Manifest(
        step=state.step,
        best_step=None if best is None else int(best.name.rpartition("-")[2]),
        is_finished=state.is_finished,
        resume_fingerprint=state.resume_fingerprint,
        tokens=state.tokens,
        metrics=state.metrics,
        activation_budget_bytes=state.activation_budget_bytes,
        files=files,
    )
    draft = directory / f"{MANIFEST}.draft"
    draft.write_text(manifest.model_dump_json(indent=1, by_alias=True))
    draft.replace(directory / MANIFEST)
    return [*files, file_entry(directory / MANIFEST)]


def check_checkpoint(
    directory: Path, fingerprint: dict[str, Any], *, is_exact: bool = True
) -> Manifest:
    """Compare a checkpoint with its manifest and with the fingerprint of this run.

    Unless ``is_exact``, ``INEXACT_KEYS`` may differ: they change only the last bits of the result.

    Raises:
        CheckpointRefusedError: names what is missing, damaged or different.
    """
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointRefusedError(f"its manifest cannot be read: {error}") from error
    for entry in manifest.files:
        path = directory / entry.name
        if not path.is_file() or file_entry(path) != entry:
            raise CheckpointRefusedError(f"{entry.name} is missing or damaged")
    missing = {*NEEDED_FILES} - {entry.name for entry in manifest.files}
    if missing:
        raise CheckpointRefusedError(f"it was saved without {', '.join(sorted(missing))}")
    saved = manifest.resume_fingerprint
    allowed = () if is_exact else INEXACT_KEYS
    different = [k for k in differences(fingerprint, saved) if k not in allowed]
    if different:
        raise CheckpointRefusedError(
            f"it was saved with other values of {', '.join(different)}: "
            f"{json.dumps({k: saved.get(k) for k in different})}"
        )
    return manifest


def restore_best(directory: Path, manifest: Manifest, work: Path) -> Path | None:
    """Copy the best weights to the directory where the resumed trainer's state expects them."""
    if manifest.best_step is None:
        return None
    best = work / f"checkpoint-{manifest.best_step}"
    if best.resolve() != directory.resolve():
        best.mkdir(exist_ok=True)
        source = ADAPTER_WEIGHTS if manifest.best_step == manifest.step else BEST_WEIGHTS
        shutil.copyfile(directory / source, best / ADAPTER_WEIGHTS)
        shutil.copyfile(directory / ADAPTER_CONFIG, best / ADAPTER_CONFIG)
    return best


def remove_old_checkpoints(saved: list[Path], keep: Iterable[Path]) -> None:
    """Remove ``saved`` (oldest first), except for the two newest ones and those to keep."""
    kept = {path.name for path in (*saved[-2:], *keep)}
    for path in saved:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
