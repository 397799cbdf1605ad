"""Metrics of one model on one dataset, from its score table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.domain.judging.best_of_n import best_of_n
from app.domain.judging.calibration import calibration
from app.domain.judging.intervals import Clusters
from app.domain.judging.length import length_metrics
from app.domain.judging.score_table import Floats, PairTable, ScoredRow

MAX_SLICES = 32
HISTOGRAM_BINS = 40
#: Share of margins inside the histogram. Up to the largest outlier, it would show a single bar.
_HISTOGRAM_SHARE = 0.995


class NoPairsError(ValueError):
    """No row has two replies with different ranks."""


def evaluate(
    rows: Sequence[ScoredRow], *, seed: int, slices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the metrics of a score table.

    ``slices`` names the slices to report; by default the MAX_SLICES largest.

    Raises:
        NoPairsError: the table has no pair.
    """
    pairs = PairTable.of(rows)
    if not len(pairs):
        raise NoPairsError("no row has two replies of different rank")
    clusters = Clusters(pairs.cluster, seed)
    hits, margins = pairs.hits, pairs.margins
    replies = np.array([score for row in rows for score in row.scores])
    low, high = np.quantile(margins, [0.05, 0.95])
    return {
        "rows": len(rows),
        "pairs": len(pairs),
        "prompts": clusters.count,
        "interval_method": clusters.method,
        "accuracy": {"value": float(hits.mean()), "interval": clusters.mean_interval(hits)},
        "accuracy_strict": float((margins > 0).mean()),
        "ties": float((margins == 0).mean()),
        "margin": {
            "mean": float(margins.mean()),
            "std": float(margins.std()),
            "low": float(low),
            "median": float(np.median(margins)),
            "high": float(high),
            "histogram": _histogram(margins),
        },
        "reward": {
            "mean": float(replies.mean()),
            "std": float(replies.std()),
            "within_prompt_std": within_prompt_std(rows),
        },
        "calibration": calibration(margins),
        "length": length_metrics(list(rows), pairs, clusters),
        "slices": _by_slice(pairs, clusters, slices),
        "best_of_n": best_of_n(rows),
    }


def headline(rows: Sequence[ScoredRow], *, seed: int) -> dict[str, Any]:
    """Return only the accuracy, for baselines.

    Raises:
        NoPairsError: the table has no pair.
    """
    pairs = PairTable.of(rows)
    if not len(pairs):
        raise NoPairsError("no row has two replies of different rank")
    interval = Clusters(pairs.cluster, seed).mean_interval(pairs.hits)
    return {"accuracy": {"value": float(pairs.hits.mean()), "interval": interval}}


def within_prompt_std(rows: Sequence[ScoredRow]) -> float:
    """Return the standard deviation of the scores of all replies around the mean of their row."""
    squares = sum(float(np.var(row.scores)) * len(row.scores) for row in rows)
    return float(np.sqrt(squares / sum(len(row.scores) for row in rows)))


def baselines(rows: Sequence[ScoredRow], seed: int) -> dict[str, list[ScoredRow]]:
    """Return the score tables of baselines without a model: random, longest, shortest."""
    rng = np.random.default_rng(seed)
    rules: dict[str, Callable[[ScoredRow], Sequence[float]]] = {
        "random": lambda row: rng.random(len(row.scores)).tolist(),
        "longest": lambda row: row.lengths,
        "shortest": lambda row: [-length for length in row.lengths],
    }
    return {name: [row.with_scores(rule(row)) for row in rows] for name, rule in rules.items()}


def slice_names(pairs: PairTable, wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the slices to report, largest first, then by name."""
    counts: dict[str, int] = {}
    for name in pairs.slices:
        if name is not None and (wanted is None or name in wanted):
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[:MAX_SLICES]


def slice_mask(pairs: PairTable, name: str) -> Floats:
    """Return 1 for the pairs of a slice, 0 for others."""
    return np.array([each == name for each in pairs.slices], dtype=np.float64)


def _by_slice(
    pairs: PairTable, clusters: Clusters, wanted: Sequence[str] | None
) -> list[dict[str, Any]]:
    found = []
    for name in slice_names(pairs, wanted):
        mask = slice_mask(pairs, name)
        found.append(
            {
                "slice": name,
                "pairs": int(mask.sum()),
                "accuracy": {
                    "value": float((pairs.hits * mask).sum() / mask.sum()),
                    "interval": clusters.mean_interval(pairs.hits, mask),
                },
            }
        )
    return found


def _histogram(margins: Floats) -> dict[str, Any]:
    """Return edges and counts; the first and the last bin include the values beyond them."""
    limit = float(np.quantile(np.abs(margins), _HISTOGRAM_SHARE)) or 1.0
    counts, edges = np.histogram(
        np.clip(margins, -limit, limit), bins=HISTOGRAM_BINS, range=(-limit, limit)
    )
    return {"edges": edges.tolist(), "counts": counts.tolist()}
