"""Calibration of sigmoid(margin) as the probability that the chosen reply is the better one."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.domain.judging.score_table import Floats, half_hits

BINS = 10
#: Bounds of the temperature: if all pairs are in the right order, no finite value is optimal.
MIN_LOG_T, MAX_LOG_T = float(np.log(1e-3)), float(np.log(1e3))
_GOLDEN = (np.sqrt(5) - 1) / 2


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x) without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def calibration(margins: Floats) -> dict[str, Any]:
    """Return ECE, Brier score, temperature, the ECE after temperature scaling, and the bins."""
    temperature = fit_temperature(margins)
    bins = reliability_bins(sigmoid(margins))
    return {
        "ece": expected_error(bins),
        "brier": float(np.mean((1 - sigmoid(margins)) ** 2)),
        "temperature": temperature,
        "ece_at_temperature": expected_error(reliability_bins(sigmoid(margins / temperature))),
        "bins": bins,
    }


def reliability_bins(probability: Floats) -> list[dict[str, float]]:
    """Return confidence, accuracy and count of equal-width bins of the confidence, 0.5 to 1."""
    confidence = np.maximum(probability, 1 - probability)
    hits = half_hits(probability - 0.5)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(hits[bins == b].mean()),
            "pairs": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def expected_error(bins: list[dict[str, float]]) -> float:
    """Return the expected calibration error (Naeini et al. 2015)."""
    total = sum(each["pairs"] for each in bins)
    return sum(abs(b["accuracy"] - b["confidence"]) * b["pairs"] for b in bins) / total


def fit_temperature(margins: Floats) -> float:
    """Return the T that minimises the mean of log(1 + e^(-margin / T)) (Guo et al. 2017).

    As a function of 1/T the loss is convex, so the golden-section search over log T finds the
    minimum. If all pairs are ties, every T is as good, and the result is 1.
    """
    if not margins.any():
        return 1.0

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -margins / np.exp(log_t)).mean())

    low, high = MIN_LOG_T, MAX_LOG_T
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(80):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))
