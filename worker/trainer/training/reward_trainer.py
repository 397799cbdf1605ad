"""TRL's RewardTrainer with the plan's arguments, Plaudit's evaluation and a check of every loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerControl
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from app.domain.plan import TrainingPlan
from worker.reward_model.loading import DeviceConfig
from worker.trainer.data.pair_records import HAS_MARGIN
from worker.trainer.data.pair_table import PairTable
from worker.trainer.memory_budget import recompute_above_bytes, uses_activation_checkpointing
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer
from worker.trainer.training.callbacks import non_finite_error

#: Checkpoints are written to the work directory: their paths are then the same in every attempt.
OUTPUT_DIR = "."


def reward_config(
    plan: TrainingPlan, device_config: DeviceConfig, model: PeftModel
) -> RewardConfig:
    """Return the plan's arguments with those that depend on this machine."""
    base = model.get_base_model()
    return RewardConfig(
        **plan.reward_kwargs(),
        output_dir=OUTPUT_DIR,
        use_cpu=device_config.device == "cpu",
        bf16=device_config.bf16,
        activation_checkpointing=uses_activation_checkpointing(
            device_config.device,
            setting=plan.gradient_checkpointing,
            is_supported=bool(base.supports_gradient_checkpointing),
        ),
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
        dataloader_pin_memory=device_config.device == "cuda",
    )


class PairDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Pairs in TRL's form of a tokenised dataset; they stay on disk.

    There are margins only if any pair has one.
    """

    def __init__(self, pairs: PairTable) -> None:
        self._pairs = pairs
        self._has_margins = bool((pairs.records["flags"] & HAS_MARGIN).any())

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self._pairs[index]
        row: dict[str, Any] = {
            "chosen_ids": pair.chosen.tolist(),
            "rejected_ids": pair.rejected.tolist(),
        }
        return row | {"margin": pair.margin or 0.0} if self._has_margins else row


def first_pair(pairs: PairTable) -> Dataset:
    """Return a dataset of one pair: TRL accepts no other class, and would copy all pairs."""
    return Dataset.from_list([PairDataset(pairs)[0]])


def backend_trainer(
    plan: TrainingPlan, device: str, device_bytes: int
) -> tuple[type[Any], dict[str, Any]]:
    """Return the trainer class and its additional arguments; ``choose_backend`` may fall back."""
    if plan.engine == "stock":
        return RewardTrainer, {}
    return SharedPrefixRewardTrainer, {
        "may_recompute": plan.gradient_checkpointing is not False,
        "recompute_above_bytes": recompute_above_bytes(plan, device, device_bytes),
    }


def plaudit_trainer_class(base: type[Any]) -> type[Any]:
    """Return a subclass of a backend's trainer class."""

    class PlauditTrainer(base):  # type: ignore[misc]
        control: TrainerControl
        #: Scores the held-out pairs, reports the metrics and returns them by name.
        evaluate_pairs: Callable[[], dict[str, float]]

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            """Evaluate the held-out pairs and show the metrics to the callbacks."""
            metrics = self.evaluate_pairs()
            # As TRL names them: eval/loss is eval_loss, eval_maths/loss is eval_maths_loss.
            results = {name.replace("/", "_", 1): value for name, value in metrics.items()}
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, results
            )
            if not all(np.isfinite(metrics[name]) for name in metrics if name.endswith("/loss")):
                raise non_finite_error("the evaluation loss", self.state.global_step)
            return results

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            # The shared-prefix trainer has read it already; a second read would wait for the GPU
            # again.
            if not math.isfinite(getattr(self, "step_loss", loss)):
                raise non_finite_error("the loss", self.state.global_step + 1)
            return loss

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Write no card: ``export.model_card`` creates it."""

    return PlauditTrainer
