"""Metrics of length bias: rank correlation, balanced accuracy and length-controlled accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.domain.judging.calibration import sigmoid
from app.domain.judging.intervals import Clusters, around
from app.domain.judging.score_table import Floats, PairTable, ScoredRow

#: Ridge penalty, equal to a normal prior with standard deviation 10. It keeps the fit finite if
#: length separates right from wrong pairs.
_RIDGE = 0.01
_NEWTON_STEPS = 50
#: Smallest difference from the mean of a prompt, relative to the largest value, that is no rounding
#: error.
_ROUNDING = 1e-12


def length_metrics(
    rows: list[ScoredRow], pairs: PairTable, clusters: Clusters
) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of length bias.

    ``spearman`` is the rank correlation of score and length in characters over all replies.
    ``within_prompt_spearman`` uses the differences from the mean of their prompt, which removes the
    effect of prompts with long replies. ``shorter_chosen`` is the accuracy on pairs whose better
    reply is the shorter one; ``balanced`` is the mean of it and of ``longer_chosen``.
    ``controlled`` is sigmoid(a) of the logistic fit P(right) = sigmoid(a + b·tanh(Δlength / sd)):
    the accuracy between replies of equal length (after Dubois et al. 2024, arXiv 2404.04475).
    """
    hits, difference = pairs.hits, pairs.length_difference
    shorter, longer = (difference < 0).astype(float), (difference > 0).astype(float)
    groups = {"shorter_chosen": shorter, "longer_chosen": longer}
    result: dict[str, Any] = {
        "spearman": spearman(*_scores_and_lengths(rows, is_centered=False)),
        "within_prompt_spearman": spearman(*_scores_and_lengths(rows, is_centered=True)),
    }
    for name, mask in groups.items():
        result[name] = None
        if mask.any():
            result[name] = {
                "value": float((hits * mask).sum() / mask.sum()),
                "interval": clusters.mean_interval(hits, mask),
                "pairs": int(mask.sum()),
            }
    result["balanced"] = None
    if shorter.any() and longer.any():
        value = (result["shorter_chosen"]["value"] + result["longer_chosen"]["value"]) / 2
        interval = clusters.mean_of_means_interval(hits, (shorter, longer))
        result["balanced"] = {"value": value, "interval": interval}
    result["controlled"] = controlled(hits, difference, clusters)
    return result


def controlled(hits: Floats, difference: Floats, clusters: Clusters) -> dict[str, Any]:
    """Return the accuracy at equal length, its sandwich interval by prompt, and the slope b."""
    spread = difference.std()
    x = np.tanh(difference / spread) if spread else np.zeros(len(difference))
    design = np.stack([np.ones(len(x)), x], axis=1)
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        expected = sigmoid(design @ weights)
        gradient = design.T @ (hits - expected) - _RIDGE * weights
        hessian = (design.T * (expected * (1 - expected))) @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-12:
            break
    expected = sigmoid(design @ weights)
    hessian = (design.T * (expected * (1 - expected))) @ design + _RIDGE * np.eye(2)
    residuals = design * (hits - expected)[:, None]
    by_prompt = np.stack([clusters.sum_by_cluster(column) for column in residuals.T], axis=1)
    influence = by_prompt @ np.linalg.inv(hessian)
    low, high = around(weights[0], clusters.standard_error(influence[:, 0]))
    bounds = sigmoid(np.array([low, weights[0], high]))
    return {
        "value": float(bounds[1]),
        "interval": [float(bounds[0]), float(bounds[2])] if clusters.count > 1 else None,
        "slope": float(weights[1]),
    }


# SciPy has this function, but nothing else needs SciPy.
def spearman(a: Floats, b: Floats) -> float:
    """Return the rank correlation, with average ranks for ties, or 0 if one side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if len(a) < 2 or ranks_a.std() == 0 or ranks_b.std() == 0:
        return 0.0
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((2 * ends - counts - 1) / 2)[inverse])


def _scores_and_lengths(rows: list[ScoredRow], *, is_centered: bool) -> tuple[Floats, Floats]:
    columns = []
    for name in ("scores", "lengths"):
        values = [np.array(getattr(row, name), dtype=np.float64) for row in rows]
        column = np.concatenate([v - v.mean() if is_centered else v for v in values])
        if is_centered:  # otherwise rounding errors of the means would break ties
            unit = _ROUNDING * max(float(np.abs(v).max()) for v in values)
            column = np.round(column / unit) if unit else column
        columns.append(column)
    return columns[0], columns[1]
