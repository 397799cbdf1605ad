"""The figures of an evaluation, recomputed from its file of scores without the service's code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest


def hits_of(rows: list[dict[str, Any]]) -> Any:
    margins = np.array([row["scores"][0] - row["scores"][1] for row in rows])
    return (margins > 0) + 0.5 * (margins == 0)


def check_metrics(
    rows: list[dict[str, Any]], found: dict[str, Any], *, seed: int = 0, tolerance: float = 1e-9
) -> None:
    """Recompute the figures of pairs from their scores, without the service's code.

    ``tolerance`` is that of the scores.
    """
    margins = np.array([row["scores"][0] - row["scores"][1] for row in rows])
    difference = np.array([row["lengths"][0] - row["lengths"][1] for row in rows])
    hits = hits_of(rows)
    order: dict[str, int] = {}
    prompt = np.array([order.setdefault(row["prompt"], len(order)) for row in rows])
    drawn = np.random.default_rng(seed).integers(len(order), size=(1000, len(order)))

    def interval(chosen: Any) -> list[float]:
        if len(set(hits[chosen])) == 1:  # the means of all resamples are equal
            unseen = 1 - 0.025 ** (1 / len(set(prompt[chosen])))
            value = hits[chosen][0]
            return [value * (1 - unseen), value + (1 - value) * unseen]
        members = [np.flatnonzero(chosen & (prompt == p)) for p in range(len(order))]
        means = []
        for resample in drawn:
            picked = np.concatenate([members[p] for p in resample])
            if len(picked):
                means.append(hits[picked].mean())
        return list(np.quantile(means, [0.025, 0.975]))

    everything = np.ones(len(rows), bool)
    near = {"rel": 1e-9, "abs": 1e-9}
    close = {"rel": 1e-6, "abs": tolerance}
    assert (found["rows"], found["pairs"], found["prompts"]) == (len(rows), len(rows), len(order))
    assert found["accuracy"]["value"] == pytest.approx(hits.mean(), **near)
    assert found["accuracy"]["interval"] == pytest.approx(interval(everything), **near)
    assert found["accuracy_strict"] == pytest.approx((margins > 0).mean(), **near)
    assert found["ties"] == pytest.approx((margins == 0).mean(), **near)
    margin = found["margin"]
    quantiles = np.quantile(margins, [0.05, 0.5, 0.95])
    assert [margin["low"], margin["median"], margin["high"]] == pytest.approx(
        list(quantiles), **close
    )
    assert (margin["mean"], margin["std"]) == pytest.approx(
        (margins.mean(), margins.std()), **close
    )
    edges = margin["histogram"]["edges"]
    inside = np.clip(margins, edges[0], edges[-1])
    counts = np.array(margin["histogram"]["counts"])
    # A margin at the edge of two bins may be in either one.
    assert np.abs(np.cumsum(counts - np.histogram(inside, bins=edges)[0])).max() <= tolerance * 1e5
    assert counts.sum() == len(rows)
    scores = np.array([row["scores"] for row in rows])
    reward = found["reward"]
    assert (reward["mean"], reward["std"]) == pytest.approx((scores.mean(), scores.std()), **close)
    within = math.sqrt(np.mean((scores - scores.mean(axis=1, keepdims=True)) ** 2))
    assert reward["within_prompt_std"] == pytest.approx(within, **close)
    check_calibration(margins, hits, found["calibration"], tolerance)
    length = found["length"]
    lengths = np.array([row["lengths"] for row in rows])
    centered = [a - a.mean(axis=1, keepdims=True) for a in (scores, lengths)]
    assert length["spearman"] == pytest.approx(rank_correlation(scores, lengths))
    assert length["within_prompt_spearman"] == pytest.approx(rank_correlation(*centered))
    for name, chosen in (("shorter_chosen", difference < 0), ("longer_chosen", difference > 0)):
        assert length[name]["value"] == pytest.approx(hits[chosen].mean(), **near)
        assert length[name]["interval"] == pytest.approx(interval(chosen), **near)
        assert length[name]["pairs"] == chosen.sum()
    both = (hits[difference < 0].mean() + hits[difference > 0].mean()) / 2
    assert length["balanced"]["value"] == pytest.approx(both, **near)
    assert length["controlled"]["value"] == pytest.approx(controlled(hits, difference), abs=1e-5)
    for entry in found["slices"]:
        chosen = np.array([row["slice"] == entry["slice"] for row in rows])
        assert entry["pairs"] == chosen.sum()
        assert entry["accuracy"]["value"] == pytest.approx(hits[chosen].mean(), **near)
        assert entry["accuracy"]["interval"] == pytest.approx(interval(chosen), **near)
    assert sum(entry["pairs"] for entry in found["slices"]) == len(rows)


def check_calibration(margins: Any, hits: Any, found: dict[str, Any], tolerance: float) -> None:
    def error(probability: Any) -> float:
        confidence = np.maximum(probability, 1 - probability)
        edges = np.linspace(0.5, 1, 11)
        place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, 9)
        return float(
            sum(
                abs(hits[place == b].mean() - confidence[place == b].mean()) * (place == b).mean()
                for b in set(place.tolist())
            )
        )

    probability = 1 / (1 + np.exp(-margins))
    assert found["ece"] == pytest.approx(error(probability), abs=tolerance)
    assert found["brier"] == pytest.approx(np.mean((1 - probability) ** 2), abs=tolerance)
    t = found["temperature"]
    # With more wrong than right pairs no finite temperature is best, with none wrong none above 0.
    if not 0.00101 < t < 999:
        return
    at = error(1 / (1 + np.exp(-margins / t)))
    assert found["ece_at_temperature"] == pytest.approx(at, abs=max(1e-6, tolerance * 10))
    losses = [np.log1p(np.exp(-margins / (t * f))).mean() for f in (0.97, 1, 1.03)]
    assert losses[1] <= min(losses) + (1e-12 if tolerance < 1e-6 else tolerance)


def rank_correlation(a: Any, b: Any) -> float:
    def ranks(values: Any) -> Any:
        flat = values.ravel()
        return np.array([(flat < x).sum() + ((flat == x).sum() - 1) / 2 for x in flat])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def controlled(hits: Any, difference: Any) -> float:
    """Fit by plain gradient ascent on the penalised likelihood."""
    x = np.stack([np.ones(len(hits)), np.tanh(difference / difference.std())])
    weights = np.zeros(2)
    for _ in range(200_000):
        step = x @ (hits - 1 / (1 + np.exp(-(weights @ x)))) - 0.01 * weights
        weights += step * 2 / len(hits)
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def assert_equal(found: Any, expected: Any, place: str = "") -> None:
    """Assert that a document contains the expected values, with numbers within 1e-9."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_equal(found[name], value, f"{place}/{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_equal(found[number], value, f"{place}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), place
    else:
        assert found == expected, place
