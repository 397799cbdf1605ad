"""Rewards of preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.plan import TrainingPlan
from worker.reward_model.loading import DeviceConfig
from worker.reward_model.scoring import score
from worker.trainer.data.pairs import Pair

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Rewards of both replies of each pair, in the order of the pairs."""

    pairs: Sequence[Pair]
    chosen: Floats
    rejected: Floats

    @property
    def margins(self) -> Floats:
        """Reward of the chosen reply minus reward of the rejected one."""
        return self.chosen - self.rejected

    @property
    def rewards(self) -> Floats:
        """Rewards of all chosen replies, then of all rejected ones."""
        return np.concatenate([self.chosen, self.rejected])


def score_pairs(
    model: torch.nn.Module, pairs: Sequence[Pair], plan: TrainingPlan, device_config: DeviceConfig
) -> Scores:
    """Score both replies of every pair with the model in its present state."""
    rewards = score(
        model,
        [ids for pair in pairs for ids in (pair.chosen, pair.rejected)],
        pad_token_id=plan.tokenization.pad_token_id,
        bf16=device_config.bf16,
    )
    return Scores(pairs, np.array(rewards[0::2]), np.array(rewards[1::2]))
