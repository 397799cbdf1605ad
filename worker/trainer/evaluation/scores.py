"""Rewards of preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.reward_model.token_cache import Ids
from worker.trainer.data.pair_table import Pair

Floats = NDArray[np.float64]
#: Returns the rewards of all sequences, group by group. A group has replies to one prompt.
ScoreGroups = Callable[[Sequence[Sequence[Ids]]], Sequence[float]]


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


def score_pairs(pairs: Sequence[Pair], score_groups: ScoreGroups) -> Scores:
    """Score both replies of every pair.

    A reply of a ranked row is in several pairs; it is scored once, in one group with the other
    replies of its row.
    """
    groups: list[list[Ids]] = []
    rows: dict[int, int] = {}  # the group of a ranked row
    places: dict[tuple[int, int], tuple[int, int]] = {}  # the group and position of its replies
    found: list[tuple[int, int]] = []
    for pair in pairs:
        if pair.replies is None:
            found += [(len(groups), 0), (len(groups), 1)]
            groups.append([pair.chosen, pair.rejected])
            continue
        number = rows.setdefault(pair.line, len(groups))
        if number == len(groups):
            groups.append([])
        for reply, ids in zip(pair.replies, (pair.chosen, pair.rejected), strict=True):
            place = places.setdefault((pair.line, reply), (number, len(groups[number])))
            if place[1] == len(groups[number]):
                groups[number].append(ids)
            found.append(place)
    starts = np.concatenate(([0], np.cumsum([len(group) for group in groups], dtype=int)))
    rewards = np.array(score_groups(groups), dtype=np.float64)
    of_sides = rewards[[starts[number] + position for number, position in found]]
    return Scores(pairs, of_sides[0::2], of_sides[1::2])
