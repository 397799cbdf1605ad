"""Score in fixed chunks that are saved, so that an interrupted evaluation can resume.

The chunks are the same in every run, because the last bits of a score may depend on the other texts
of its batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from app.domain.lifecycle import FailureCode
from app.domain.plan import TrainingPlan
from app.domain.progress import CheckpointSaved, Stepped
from worker.ipc.channel import Channel
from worker.ipc.order import MANIFEST, WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.interruption import checked_before_modules
from worker.reward_model.loading import device_config_for
from worker.reward_model.packaged_adapter import SUMMARY, load_packaged
from worker.reward_model.scoring import score
from worker.trainer.library_versions import library_versions

#: Number of sequences in a chunk. Chunks that are not finished when a stop is requested are lost.
CHUNK_SEQUENCES = 128
_SCORES = "scores.json"


class LazyModel:
    """A model that is loaded on first use; after a resume it may never be needed."""

    def __init__(self, load: Callable[[], nn.Module], *, pad_token_id: int, bf16: bool) -> None:
        self._load = load
        self._model: nn.Module | None = None
        self._pad_token_id, self._bf16 = pad_token_id, bf16

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def load(self) -> nn.Module:
        """Return the model; load it if it is not in memory."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def release(self) -> None:
        """Drop the model from memory."""
        self._model = None

    def score(self, sequences: Sequence[list[int]]) -> list[float]:
        """Return the rewards of sequences of token ids."""
        model = self.load()
        return score(model, sequences, pad_token_id=self._pad_token_id, bf16=self._bf16)


def packaged_model(order: WorkOrder, directory: Path, plan: TrainingPlan) -> LazyModel:
    """Return the model of an adapter's files, as a fresh process loads it for the certificate."""
    summary = json.loads((directory / SUMMARY).read_text())
    device = device_config_for(plan).device
    return LazyModel(
        lambda: load_packaged(directory, Path(order.model_dir), summary, device),
        pad_token_id=summary["pad_token_id"],
        bf16=summary["dtype"] == "bfloat16",
    )


def resume_fingerprint(order: WorkOrder, wanted: BaseModel, plan: TrainingPlan) -> dict[str, Any]:
    """Return the values that must be equal in a resumed run for equal scores."""
    device = device_config_for(plan).device
    return {
        "order_sha256": hashlib.sha256(wanted.model_dump_json().encode()).hexdigest(),
        "versions": library_versions(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": order.threads,
    }


class ResumableScoring:
    """The scores so far, by model, stage and chunk."""

    def __init__(
        self, order: WorkOrder, channel: Channel, fingerprint: dict[str, Any], total: int
    ) -> None:
        """``total`` is the number of sequences of the whole evaluation, or an upper bound."""
        self._channel, self._fingerprint = channel, fingerprint
        self._total = max(1, total)
        self._seconds = order.checkpoint_seconds
        self._known: dict[str, list[float]] = {}
        for directory in map(Path, order.checkpoints):
            manifest = json.loads((directory / MANIFEST).read_text())
            if manifest["same"] == fingerprint:
                self._known = json.loads((directory / _SCORES).read_text())
                break
        self._done, self._saved = 0, len(self._known)
        self._saved_at = time.monotonic()

    def score(self, model: LazyModel, stage: str, sequences: Sequence[list[int]]) -> list[float]:
        """Return the rewards of sequences; those of an earlier attempt are not computed again.

        Raises:
            StoppedError: the supervisor requested a stop; a checkpoint was saved.
            TrainerError: model_unsupported if a reward is not finite.
        """
        found: list[float] = []
        for start in range(0, len(sequences), CHUNK_SEQUENCES):
            key = f"{stage}/{start}"
            if key not in self._known:
                self.stop_if_wanted()
                self._load(model)
                chunk = sequences[start : start + CHUNK_SEQUENCES]
                with checked_before_modules(self.stop_if_wanted):
                    rewards = model.score(chunk)
                if not all(map(math.isfinite, rewards)):
                    raise TrainerError(FailureCode.MODEL_UNSUPPORTED, _not_finite(stage, rewards))
                self._known[key] = rewards
            found += self._known[key]
            self._done += len(self._known[key])
            self._report(self._done)
            if time.monotonic() - self._saved_at >= self._seconds:
                self._save()
        return found

    def _load(self, model: LazyModel) -> None:
        """Load a model, which may take minutes: a request to stop ends the process meanwhile."""
        if model.is_loaded:
            return
        self._save()
        with self._channel.exiting_on_stop():
            self.stop_if_wanted()
            model.load()

    def stop_if_wanted(self) -> None:
        """Stop if the supervisor requested it.

        Raises:
            StoppedError: after the new scores were saved.
        """
        if self._channel.is_stop_wanted:
            self._save()
            raise StoppedError(self._done)

    def finish(self) -> None:
        """Report that everything is scored."""
        self._report(self._total)

    def _report(self, done: int) -> None:
        done = min(done, self._total)
        self._channel.send(
            Stepped(step=done, total_steps=self._total, epoch=done / self._total)
        )  # fmt: skip

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        # The supervisor may still read the files of the last checkpoint, so write none twice.
        if len(self._known) == self._saved:
            return
        self._saved = len(self._known)
        directory = Path(f"checkpoint-{self._done}")
        directory.mkdir(exist_ok=True)
        (directory / _SCORES).write_text(json.dumps(self._known))
        manifest = {"same": self._fingerprint, "step": self._done}
        (directory / MANIFEST).write_text(json.dumps(manifest))
        self._channel.send(
            CheckpointSaved(
                step=self._done, directory=directory.name, files=file_entries(directory)
            )
        )


def _not_finite(stage: str, rewards: Sequence[float]) -> str:
    count = sum(not math.isfinite(reward) for reward in rewards)
    return (
        f"{count} of {len(rewards)} scores of {stage} are NaN or infinite; train an adapter with a "
        "lower learning rate, or use another base model"
    )
