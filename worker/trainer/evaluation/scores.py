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
from worker.reward_model.token_cache import Ids
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
    """Score both replies of every pair with the model in its present state.

    A reply of a ranked row is in several pairs; it is scored once.
    """
    sequences: list[Ids] = []
    places: dict[tuple[int, int], int] = {}
    indices = []
    for pair in pairs:
        for side, ids in enumerate((pair.chosen, pair.rejected)):
            place = len(sequences)
            if pair.replies is not None:
                place = places.setdefault((pair.line, pair.replies[side]), place)
            if place == len(sequences):
                sequences.append(ids)
            indices.append(place)
    rewards = score(
        model,
        sequences,
        pad_token_id=plan.tokenization.pad_token_id,
        bf16=device_config.bf16,
    )
    of_sides = np.array(rewards)[indices]
    return Scores(pairs, of_sides[0::2], of_sides[1::2])
