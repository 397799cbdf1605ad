"""The result of a training run, from which the adapter's files are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from app.domain.plan import TrainingPlan
from worker.ipc.order import WorkOrder
from worker.reward_model.loading import DeviceConfig
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.evaluation.scores import Scores


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained model with all data for its files."""

    order: WorkOrder
    plan: TrainingPlan
    model: PeftModel
    tokenizer: PairTokenizer
    device_config: DeviceConfig
    backend: str  # "shared_prefix" or "stock"
    scores: Scores | None  # scores of the held-out pairs, if there are any
    metrics: dict[str, float]
    counts: dict[str, Any]  # result of ``count_pairs``
    outcome: dict[str, Any]  # result of ``TrainingOutcome.document``

    @property
    def base(self) -> PreTrainedModel:
        """The base model inside the adapter."""
        base = self.model.get_base_model()
        assert isinstance(base, PreTrainedModel)
        return base
