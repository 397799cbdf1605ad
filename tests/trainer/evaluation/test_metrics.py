from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from worker.trainer.data.pair_table import Pair
from worker.trainer.evaluation.metrics import compute_metrics, worst_pairs
from worker.trainer.evaluation.scores import Scores


def scores(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[tuple[int, int]] | None = None,
    slices: Sequence[str | None] | None = None,
    margins: Sequence[float | None] | None = None,
) -> Scores:
    count = len(chosen)
    pairs = [
        Pair(
            line=i + 1,
            chosen=np.zeros((lengths or [(3, 3)] * count)[i][0], dtype=np.int32),
            rejected=np.zeros((lengths or [(3, 3)] * count)[i][1], dtype=np.int32),
            margin=(margins or [None] * count)[i],
            slice=(slices or [None] * count)[i],
            prompt=b"",
        )
        for i in range(count)
    ]
    return Scores(pairs, np.array(chosen, dtype=float), np.array(rejected, dtype=float))


def metrics_of(*args: object, **more: object) -> dict[str, float]:
    return compute_metrics(scores(*args, **more), centering=None, seed=0)  # type: ignore[arg-type]


def test_ties_count_half() -> None:
    assert metrics_of([1, 2, 0, 0], [0, 2, 1, -1])["accuracy"] == (1 + 0.5 + 0 + 1) / 4


def test_interval_contains_the_accuracy_and_narrows_with_more_pairs() -> None:
    few = metrics_of([1, 1, 1, 0] * 5, [0, 0, 0, 1] * 5)
    many = metrics_of([1, 1, 1, 0] * 500, [0, 0, 0, 1] * 500)
    for each in (few, many):
        assert each["accuracy_low"] <= each["accuracy"] <= each["accuracy_high"]
    # The normal approximation 1.96 · √(p(1 - p)/n) is accurate for 2,000 pairs.
    half = 1.96 * math.sqrt(0.75 * 0.25 / 2000)
    assert many["accuracy_high"] - many["accuracy_low"] == pytest.approx(2 * half, rel=0.1)
    assert few["accuracy_high"] - few["accuracy_low"] > 0.3


def test_loss_is_the_training_loss() -> None:
    given = scores([2.0, 0.5], [1.0, 1.0], margins=[0.5, None])
    loss = compute_metrics(given, centering=0.1, seed=0)["loss"]
    expected = [
        math.log(1 + math.exp(-(1.0 - 0.5))) + 0.1 * 9,
        math.log(1 + math.exp(0.5)) + 0.1 * 2.25,
    ]
    assert loss == pytest.approx(sum(expected) / 2)


def test_calibration_error_compares_confidence_with_accuracy() -> None:
    log_odds = math.log(3)  # sigmoid of it is 0.75
    calibrated = metrics_of([log_odds, log_odds, log_odds, 0], [0, 0, 0, log_odds])
    assert calibrated["ece"] == pytest.approx(0, abs=1e-9)
    assert calibrated["brier"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    overconfident = metrics_of([9, 9, 9, 0], [0, 0, 0, 9])
    assert overconfident["ece"] == pytest.approx(0.25, abs=1e-3)


def test_influence_of_length_is_measured() -> None:
    lengths = [(9, 2), (8, 3), (7, 1), (2, 6)]
    by_length = metrics_of([9, 8, 7, 2], [2, 3, 1, 6], lengths)
    assert by_length["length_spearman"] == pytest.approx(1.0)
    assert by_length["accuracy_when_shorter"] == 0.0
    assert by_length["length_baseline"] == 0.75
    assert "accuracy_when_shorter" not in metrics_of([1], [0], [(4, 2)])


def test_rank_correlation_uses_average_ranks_for_ties() -> None:
    got = metrics_of([1, 1], [2, 3], [(1, 2), (3, 3)])["length_spearman"]
    rewards, lengths = [1.5, 1.5, 3, 4], [1, 3.5, 2, 3.5]  # ranks in the order of the rewards
    assert got == pytest.approx(float(np.corrcoef(rewards, lengths)[0, 1]))
    assert metrics_of([1, 1], [1, 1])["length_spearman"] == 0.0


def test_slices_are_reported_under_safe_names() -> None:
    slices = ["Code / C++", "Code / C++", "code___c__", None]
    got = metrics_of([1, 0, 1, 0], [0, 1, 0, 1], slices=slices)
    assert got["slice/code___c__"] == 0.5
    assert got["slice/code___c__-"] == 1.0


def test_worst_pairs_are_sorted_and_exclude_correct_ones() -> None:
    worst = worst_pairs(scores([0, 5, 1, 0], [3, 0, 1, 4]))
    assert [(pair["line"], pair["margin"]) for pair in worst] == [(4, -4.0), (1, -3.0)]
