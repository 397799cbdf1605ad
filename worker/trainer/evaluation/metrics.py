"""Metrics of a reward model from per-pair scores, with their uncertainty.

TRL's own accuracy is a mean of batch means and counts ties as wrong: six pairs in batches of four
gave 0.875, where 0.833 is correct. Here every pair has the same weight and a tie counts half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.judging.intervals import SHARE, unanimous_interval
from worker.trainer.data.pair_table import Pair
from worker.trainer.evaluation.scores import Floats, Scores

BOOTSTRAP_SAMPLES = 2000
CALIBRATION_BINS = 10
MAX_WORST_PAIRS = 50
MAX_SLICES = 32
#: How the names of the accuracies of slices begin.
SLICE = "slice/"


def compute_metrics(scores: Scores, *, centering: float | None, seed: int) -> dict[str, float]:
    """Return the metrics by name, without a group prefix.

    ``loss`` is the training loss: Bradley–Terry with the pairs' margins, plus ``centering`` times
    the mean squared sum of a pair's rewards. ``accuracy_low`` and ``accuracy_high`` bound a 95 %
    bootstrap interval. ``ece`` and ``brier`` take sigmoid(margin) as the probability that the
    chosen reply is the better one. ``length_baseline`` is the accuracy of preferring the longer
    reply, and ``length_spearman`` the rank correlation of reward and length. ``best_of_n`` is the
    share of ranked rows in which the reply with the highest reward is one of the best; if several
    have that reward, the share of best ones counts.
    """
    margins = scores.margins
    hits = _hits(margins)
    low, high = _bootstrap_interval(hits, seed)
    required = np.array([pair.margin or 0.0 for pair in scores.pairs])
    loss = np.logaddexp(0, required - margins).mean()
    if centering is not None:
        loss += centering * np.mean((scores.chosen + scores.rejected) ** 2)
    probability = 1 / (1 + np.exp(-np.clip(margins, -500, 500)))
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in scores.pairs], dtype=float)
    metrics = {
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
        "length_spearman": rank_correlation(scores.rewards, lengths.T.reshape(-1)),
        "length_baseline": _hits(lengths[:, 0] - lengths[:, 1]).mean(),
        "pairs": len(scores.pairs),
    }
    if (best := _best_of_n(scores)) is not None:
        metrics["best_of_n"] = best
    shorter = lengths[:, 0] < lengths[:, 1]
    if shorter.any():
        metrics["accuracy_when_shorter"] = hits[shorter].mean()
    for name, indices in _slices(scores.pairs)[:MAX_SLICES]:
        metrics[f"{SLICE}{name}"] = hits[indices].mean()
    return {name: float(value) for name, value in metrics.items()}


def worst_pairs(scores: Scores, count: int = MAX_WORST_PAIRS) -> list[dict[str, Any]]:
    """Return the wrongly ordered pairs with the largest margins, largest first, by line number."""
    order = np.argsort(scores.margins, kind="stable")[:count]
    return [
        {
            "line": scores.pairs[i].line,
            **_which_replies(scores.pairs[i]),
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


def _which_replies(pair: Pair) -> dict[str, int]:
    """Return which replies of a ranked row a pair holds, from 0."""
    if pair.replies is None:
        return {}
    return {"chosen_reply": pair.replies[0], "rejected_reply": pair.replies[1]}


def _best_of_n(scores: Scores) -> float | None:
    """Return the share of ranked rows whose best reply gets the highest reward; None without one.

    A reply is one of the best if no pair of its row rejects it.
    """
    rows: dict[int, dict[int, tuple[float, bool]]] = {}
    for pair, chosen, rejected in zip(scores.pairs, scores.chosen, scores.rejected, strict=True):
        if pair.replies is None:
            continue
        better, worse = pair.replies
        replies = rows.setdefault(pair.line, {})
        replies.setdefault(better, (chosen, True))
        replies[worse] = (rejected, False)
    if not rows:
        return None
    shares = []
    for replies in rows.values():
        highest = max(reward for reward, _ in replies.values())
        winners = [is_best for reward, is_best in replies.values() if reward == highest]
        shares.append(sum(winners) / len(winners))
    return sum(shares) / len(shares)


def _hits(margins: Floats) -> Floats:
    """Return 1 for a positive margin, 0.5 for a tie, 0 for a negative one."""
    return np.where(margins == 0, 0.5, margins > 0).astype(np.float64)


def _bootstrap_interval(hits: Floats, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean under resampling of pairs.

    A pair has one of three outcomes, so the resampled counts are multinomial. If all pairs have the
    same outcome, resampling shows no variation, and the interval is the exact one.
    """
    if (hits == hits[0]).all():
        low, high = unanimous_interval(float(hits[0]), len(hits), SHARE)
        return low, high
    outcomes = np.array([0.0, 0.5, 1.0])
    shares = np.array([(hits == outcome).mean() for outcome in outcomes])
    drawn = np.random.default_rng(seed).multinomial(len(hits), shares, size=BOOTSTRAP_SAMPLES)
    low, high = np.quantile(drawn @ outcomes / len(hits), [0.025, 0.975])
    return float(low), float(high)


def _calibration_error(probability: Floats) -> float:
    """Return the expected calibration error (Naeini et al. 2015) over equal-width bins."""
    confidence = np.maximum(probability, 1 - probability)
    hits = _hits(probability - 0.5)
    bins = np.minimum(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [
        abs(hits[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


# SciPy has this function, but it is not a dependency of the worker's libraries.
def rank_correlation(a: Floats, b: Floats) -> float:
    """Return the rank correlation, with average ranks for ties; 0 when one side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if ranks_a.std() == 0 or ranks_b.std() == 0:
        return 0.0
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[inverse]


def _slices(pairs: Sequence[Pair]) -> list[tuple[str, list[int]]]:
    """Return the slices' metric-safe names and the indices of their pairs, largest slice first."""
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
