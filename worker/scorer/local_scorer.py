"""The engine of the scorer with one adapter of a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from app.domain.plan import TrainingPlan
from app.domain.scoring import ScoreItem, score_spec
from worker.reward_model.file_digests import file_entries
from worker.reward_model.packaged_adapter import SUMMARY, AdapterWeights
from worker.reward_model.probe_check import check_probes
from worker.reward_model.reply_tokenizer import ReplyTokenizer
from worker.reward_model.resident_model import ReplyGroup, ResidentModel

ADAPTER = "local"
BATCH_TOKENS = 8192
#: Tolerance for a directory: it has no certificate that names one.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
QUANTIZED_TOLERANCE = 1e-1


class TooLongError(Exception):
    """A text has more tokens than the adapter was trained with."""


class LocalScorer:
    """Loads an adapter and checks its probes.

    Raises:
        ScoresDifferError: their scores differ from those of the training.
    """

    def __init__(self, directory: Path, base_dir: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        summary = json.loads((directory / SUMMARY).read_text())
        plan = TrainingPlan.model_validate(
            json.loads((directory / "run.lock.json").read_text())["plan"]
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = ResidentModel(base_dir, summary, device, BATCH_TOKENS)
        self._model.add(ADAPTER, AdapterWeights.read(directory, device))
        self._tokenizer = ReplyTokenizer(base_dir, plan)
        is_quantized = summary["quantization"] != "none"
        tolerance = QUANTIZED_TOLERANCE if is_quantized else TOLERANCE[summary["dtype"]]
        probes = directory / "probes.jsonl"
        check_probes(self._model, ADAPTER, self._tokenizer, probes, {"tolerance": tolerance})
        files = {entry.name: entry.sha256 for entry in file_entries(directory)}
        self.spec = score_spec(summary, files)

    def score(self, groups: list[dict[str, Any]]) -> list[list[float]]:
        """Return the scores of each group.

        Raises:
            ItemInvalidError, TooLongError
        """
        work = []
        for group in groups:
            item = ScoreItem.model_validate({k: v for k, v in group.items() if k != "id"})
            encoded = self._tokenizer.encode(item)
            longest, limit = max(map(len, encoded)), self._tokenizer.max_length
            if longest > limit:
                raise TooLongError(f"a text has {longest} tokens; {limit} are allowed")
            work.append(ReplyGroup(ADAPTER, encoded))
        return self._model.score(work).rewards
