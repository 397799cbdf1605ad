"""The result of a training run, from which the adapter's files are written."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel

from app.domain.plan import TrainingPlan
from worker.ipc.order import WorkOrder
from worker.reward_model.loading import DeviceConfig
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.evaluation.scores import Scores


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained model with everything that its files describe."""

    order: WorkOrder
    plan: TrainingPlan
    model: PeftModel
    tokenizer: PairTokenizer
    device_config: DeviceConfig
    backend: str  # "shared_prefix" or "stock"
    scores: Scores | None  # of the held-out pairs, if there are any
    metrics: dict[str, float]
