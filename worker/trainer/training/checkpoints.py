"""Checkpoints that are whole or refused: a manifest of hashes, written last.

transformers writes a checkpoint in place and resumes from a damaged one without a word: a missing
optimizer.pt or a single missing tensor trains on to another result. So nothing is resumed from
that its manifest does not vouch for.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.domain.plan import TrainingPlan
from app.domain.progress import FileEntry
from worker.ipc.order import MANIFEST
from worker.reward_model.file_digests import file_entries, file_entry

#: The best weights so far travel in every checkpoint: a resumed run may end with them, on a
#: machine that never saw the checkpoint they come from.
BEST_WEIGHTS = "best_adapter_model.safetensors"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: What resuming needs; the tokenizer, a model card and pickled arguments are left out.
NEEDED = (WEIGHTS, CONFIG, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
PACKAGES = ("accelerate", "peft", "plaudit", "safetensors", "tokenizers", "torch", "transformers")


class Manifest(BaseModel):
    """What a checkpoint is, and what it must hash to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    best_step: int | None
    is_finished: bool  # training is over: resume with the evaluation
    same: dict[str, Any]  # must be equal for a resumed run to give the same bytes
    tokens: int  # trained on so far; TRL forgets it
    metrics: dict[str, float]  # of the untrained model, and of the last step that was logged
    files: list[FileEntry]


class CheckpointRefusedError(Exception):
    """A checkpoint is damaged, or belongs to another run."""


def versions() -> dict[str, str]:
    """Of the packages that decide what bytes come out."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in (*PACKAGES, "trl", "datasets")
    }


def circumstances(plan: TrainingPlan, *, device: str, threads: int, engine: str) -> dict[str, Any]:
    """What must not differ between a checkpoint and the run that resumes from it."""
    plan_bytes = plan.model_dump_json().encode()
    return {
        "plan_sha256": hashlib.sha256(plan_bytes).hexdigest(),
        "versions": versions(),
        "device": device,
        "threads": threads,
        "engine": engine,
    }


def complete(
    directory: Path,
    *,
    best: Path | None,
    step: int,
    is_finished: bool,
    same: dict[str, Any],
    tokens: int,
    metrics: dict[str, float],
) -> list[FileEntry]:
    """Strip a checkpoint to what is needed, add the best weights, and vouch for it.

    ``best`` is the directory of the best checkpoint so far, which may be this one.
    Returns the files, the manifest among them.
    """
    for path in directory.iterdir():
        if path.name not in NEEDED:
            path.unlink()
    if best is not None and best.name != directory.name:
        shutil.copyfile(best / WEIGHTS, directory / BEST_WEIGHTS)
    files = file_entries(directory)
    manifest = Manifest(
        step=step,
        best_step=None if best is None else int(best.name.rpartition("-")[2]),
        is_finished=is_finished,
        same=same,
        tokens=tokens,
        metrics=metrics,
        files=files,
    )
    draft = directory / f"{MANIFEST}.draft"
    draft.write_text(manifest.model_dump_json(indent=1))
    draft.replace(directory / MANIFEST)
    return [*files, file_entry(directory / MANIFEST)]


def verify(directory: Path, same: dict[str, Any]) -> Manifest:
    """Hold a checkpoint against its manifest and this run.

    Raises:
        CheckpointRefused: says what is missing, damaged or different.
    """
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointRefusedError(f"no readable manifest: {error}") from error
    for entry in manifest.files:
        path = directory / entry.name
        if not path.is_file() or file_entry(path) != entry:
            raise CheckpointRefusedError(f"{entry.name} is missing or damaged")
    missing = {*NEEDED} - {entry.name for entry in manifest.files}
    if missing:
        raise CheckpointRefusedError(f"{', '.join(sorted(missing))} was never part of it")
    different = sorted(k for k in {*same, *manifest.same} if same.get(k) != manifest.same.get(k))
    if different:
        raise CheckpointRefusedError(
            f"it was made under other circumstances: {', '.join(different)} "
            f"({json.dumps({k: manifest.same.get(k) for k in different})})"
        )
    return manifest


def restore_best(directory: Path, manifest: Manifest, work: Path) -> Path | None:
    """Lay the best weights where the resumed trainer's state says that they are."""
    if manifest.best_step is None:
        return None
    best = work / f"checkpoint-{manifest.best_step}"
    if best.resolve() != directory.resolve():
        best.mkdir(exist_ok=True)
        source = WEIGHTS if manifest.best_step == manifest.step else BEST_WEIGHTS
        shutil.copyfile(directory / source, best / WEIGHTS)
        shutil.copyfile(directory / CONFIG, best / CONFIG)
    return best


def prune(saved: list[Path], keep: Iterable[Path]) -> None:
    """Remove all but the two newest of ``saved`` (oldest first) and what is to keep."""
    kept = {path.name for path in (*saved[-2:], *keep)}
    for path in saved:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
