"""Metrics from per-pair scores: what a reward model is worth, with its uncertainty.

TRL's own accuracy is a mean of batch means and counts ties as wrong: 6 pairs in batches of 4 gave
0.875 where 0.833 was true. Here every pair counts once and a tie counts half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.pairs import Pair

Floats = NDArray[np.float64]
BOOTSTRAP_SAMPLES = 2000
CALIBRATION_BINS = 10
WORST_PAIRS = 50
SLICES_REPORTED = 32


@dataclass(frozen=True)
class Scores:
    """Rewards of both replies of each pair, in the pairs' order."""

    pairs: Sequence[Pair]
    chosen: Floats
    rejected: Floats

    @property
    def margins(self) -> Floats:
        """How much better the chosen reply scores."""
        return self.chosen - self.rejected

    @property
    def rewards(self) -> Floats:
        """Of all replies: the chosen ones, then the rejected ones."""
        return np.concatenate([self.chosen, self.rejected])


def metrics(scores: Scores, *, centering: float | None, seed: int) -> dict[str, float]:
    """By name without prefix: accuracy with its 95 % interval, loss, margins, calibration, length.

    ``loss`` is what training minimises (Bradley–Terry with the pairs' margins, plus
    ``centering`` times the mean squared sum of rewards). ``ece`` and ``brier`` take
    sigmoid(margin) as the probability that the chosen reply is the better one.
    """
    margins = scores.margins
    hits = _hits(margins)
    low, high = _bootstrap(hits, seed)
    required = np.array([pair.margin or 0.0 for pair in scores.pairs])
    loss = np.logaddexp(0, required - margins).mean()
    if centering is not None:
        loss += centering * np.mean((scores.chosen + scores.rejected) ** 2)
    probability = 1 / (1 + np.exp(-np.clip(margins, -500, 500)))
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in scores.pairs], dtype=float)
    found = {
        "accuracy": hits.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": loss,
        "margin_mean": margins.mean(),
        "margin_std": margins.std(),
        "reward_mean": scores.rewards.mean(),
        "reward_std": scores.rewards.std(),
        "ece": _calibration_error(probability),
        "brier": np.mean((1 - probability) ** 2),
        "length_spearman": _spearman(scores.rewards, lengths.T.reshape(-1)),
        "length_baseline": _hits(lengths[:, 0] - lengths[:, 1]).mean(),
        "pairs": len(scores.pairs),
    }
    shorter = lengths[:, 0] < lengths[:, 1]
    if shorter.any():
        found["accuracy_when_shorter"] = hits[shorter].mean()
    for name, indices in _slices(scores.pairs)[:SLICES_REPORTED]:
        found[f"slice/{name}"] = hits[indices].mean()
    return {name: float(value) for name, value in found.items()}


def worst_pairs(scores: Scores, count: int = WORST_PAIRS) -> list[dict[str, Any]]:
    """The most confidently wrong pairs, worst first, by the line they stand on."""
    order = np.argsort(scores.margins, kind="stable")[:count]
    return [
        {
            "line": scores.pairs[i].line,
            "margin": float(scores.margins[i]),
            "chosen_score": float(scores.chosen[i]),
            "rejected_score": float(scores.rejected[i]),
            "chosen_tokens": len(scores.pairs[i].chosen),
            "rejected_tokens": len(scores.pairs[i].rejected),
            "slice": scores.pairs[i].slice,
        }
        for i in order
        if scores.margins[i] < 0
    ]


def _hits(margins: Floats) -> Floats:
    return np.where(margins == 0, 0.5, margins > 0).astype(np.float64)


def _bootstrap(hits: Floats, seed: int) -> tuple[float, float]:
    """95 % interval of the mean by resampling pairs: their three outcomes are multinomial."""
    outcomes = np.array([0.0, 0.5, 1.0])
    shares = np.array([(hits == outcome).mean() for outcome in outcomes])
    drawn = np.random.default_rng(seed).multinomial(len(hits), shares, size=BOOTSTRAP_SAMPLES)
    low, high = np.quantile(drawn @ outcomes / len(hits), [0.025, 0.975])
    return float(low), float(high)


def _calibration_error(probability: Floats) -> float:
    """Expected calibration error (Naeini et al. 2015) over equal-width bins of confidence."""
    confidence = np.maximum(probability, 1 - probability)
    hits = _hits(probability - 0.5)
    bins = np.minimum(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [
        abs(hits[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


# SciPy has this, but no library of the worker depends on it, so it is not installed.
def _spearman(a: Floats, b: Floats) -> float:
    """Return the rank correlation, with average ranks for ties; 0 if one side does not vary."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if ranks_a.std() == 0 or ranks_b.std() == 0:
        return 0.0
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[inverse]


def _slices(pairs: Sequence[Pair]) -> list[tuple[str, list[int]]]:
    """Metric-safe names and members of the rows' slices, the largest first."""
    members: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        if pair.slice is not None:
            members.setdefault(pair.slice, []).append(i)
    named: dict[str, list[int]] = {}
    for name in sorted(members, key=lambda name: (-len(members[name]), name)):
        safe = re.sub(r"[^a-z0-9_.-]", "_", name.lower())[:40] or "_"
        while safe in named:
            safe += "-"
        named[safe] = members[name]
    return list(named.items())
