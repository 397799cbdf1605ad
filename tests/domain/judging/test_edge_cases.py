"""Score tables with one prompt, with ties only, and with equal gold scores."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.domain.judging import metrics
from app.domain.judging.best_of_n import best_of_n
from app.domain.judging.calibration import calibration
from app.domain.judging.comparison import compare
from app.domain.judging.probes import PROBES, ProbeScores, probe_metrics
from app.domain.judging.score_table import ScoredRow


def pair(line: int, prompt: str, scores: tuple[float, float], **more: Any) -> ScoredRow:
    return ScoredRow(line, prompt, (1, 2), scores, (5 + line % 2 * 4, 7), **more)


def intervals_of(value: Any) -> list[Any]:
    """All intervals in a document."""
    if isinstance(value, list):
        return [found for each in value for found in intervals_of(each)]
    if not isinstance(value, dict):
        return []
    own = [value["interval"]] if "interval" in value else []
    return own + [found for each in value.values() for found in intervals_of(each)]


@pytest.mark.parametrize("count", [1, 5])
def test_one_prompt_has_no_interval(count: int) -> None:
    table = [pair(line, "p", (1.0, 0.0), slice="s") for line in range(1, count + 1)]
    found = metrics.evaluate(table, seed=0)
    assert found["accuracy"]["value"] == 1.0
    assert set(intervals_of(found)) == {None}
    other = [row.with_scores([0.0, 1.0]) for row in table]
    compared = compare(other, table, seed=0)
    assert compared["difference"] == {"value": 1.0, "interval": None}
    assert metrics.headline(table, seed=0)["accuracy"]["interval"] is None


@pytest.mark.parametrize("count", [60, 5000], ids=["bootstrap", "normal"])
def test_slice_of_one_prompt_has_no_interval(count: int) -> None:
    table = [pair(line, str(line), (line % 2, 0.5)) for line in range(count)]
    table += [pair(count, "p", (1.0, 0.0), slice="s"), pair(count + 1, "p", (0.0, 1.0), slice="s")]
    found = metrics.evaluate(table, seed=0)
    assert found["interval_method"] == ("bootstrap" if count == 60 else "normal")
    (of_slice,) = found["slices"]
    assert of_slice["accuracy"] == {"value": 0.5, "interval": None}
    assert found["accuracy"]["interval"] is not None
    assert found["length"]["balanced"]["interval"] is not None


@pytest.mark.parametrize("sign", [1, -1])
def test_no_accuracy_is_outside_of_0_to_1(sign: int) -> None:
    table = [pair(line, str(line), (-sign if line < 2 else sign, 0.0)) for line in range(5000)]
    found = metrics.evaluate(table, seed=0)
    assert found["interval_method"] == "normal"
    for low, high in (found["accuracy"]["interval"], found["length"]["balanced"]["interval"]):
        assert 0 <= low < high <= 1


def test_probe_of_one_prompt_is_not_suspicious() -> None:
    changed = np.array([5.0])
    scores = ProbeScores(np.array([1.0]), np.array([0.0]), changed, changed, ("p",))
    found = probe_metrics(PROBES["filler_added"], scores, 0)
    assert found["loss"] == {"value": 1.0, "interval": None}
    assert found["is_suspicious"] is False


@pytest.mark.parametrize("score", [0.1, 0.0, -1.3e38])
@pytest.mark.parametrize("is_same_everywhere", [True, False])
def test_scorer_that_ignores_replies_has_no_signal(score: float, is_same_everywhere: bool) -> None:
    rng = np.random.default_rng(0)
    table = [
        ScoredRow(
            line,
            str(line),
            (1, 2, 2),
            (score if is_same_everywhere else score + line / 7,) * 3,
            tuple(map(int, rng.integers(1, 20, size=3))),
            gold=(1.0, 0.1, 0.1),
        )
        for line in range(50)
    ]
    found = metrics.evaluate(table, seed=0)
    json.dumps(found, allow_nan=False)
    unseen = 1 - 0.025 ** (1 / 50)
    interval = pytest.approx([0.5 - unseen / 2, 0.5 + unseen / 2])
    assert found["accuracy"] == {"value": 0.5, "interval": interval}
    assert found["calibration"]["temperature"] == 1.0
    assert found["length"]["within_prompt_spearman"] == 0.0
    assert found["best_of_n"]["recovery"] == pytest.approx(0, abs=1e-12)


def test_lengths_are_ranked_within_prompts_without_rounding_errors() -> None:
    table = [
        ScoredRow(line, str(line), (1, 2, 2), (0.5, 0.25, 0.25), (n, n + 1, n + 1))
        for line, n in enumerate((3, 103, 4090, 70_001))
    ]
    # Every prompt has the same differences, so that the order is the opposite one.
    found = metrics.evaluate(table, seed=0)["length"]["within_prompt_spearman"]
    assert found == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("value", [0.1, 0.7, 1e17, 3.0])
@pytest.mark.parametrize("count", [3, 6, 7])
def test_equal_gold_scores_have_no_recovery(value: float, count: int) -> None:
    ranks, lengths = (1, *[2] * (count - 1)), tuple(range(count))
    scores = tuple(float(n % 3) for n in range(count))
    table = [ScoredRow(1, "p", ranks, scores, lengths, gold=(value,) * count)]
    found = best_of_n(table)
    assert found is not None
    assert found["recovery"] is None


def test_white_space_that_one_model_does_not_read_makes_no_other_row() -> None:
    table = [pair(line, str(line), (line % 3, 1.0)) for line in range(30)]
    stripped = [replace(row, lengths=tuple(n - 1 for n in row.lengths)) for row in table]
    found = compare(table, stripped, seed=0)
    assert (found["rows"], found["rows_only_in_a"], found["rows_only_in_b"]) == (30, 0, 0)


def test_rows_with_other_pairs_are_not_compared() -> None:
    table = [pair(line, str(line), (line % 3, 1.0), texts=("x", "y")) for line in range(30)]
    # To this model, both replies of the first row are the same.
    other = [replace(table[0], texts=("x", "x")), *table[1:]]
    found = compare(table, other, seed=0)
    assert (found["rows"], found["pairs"]) == (29, 29)
    assert (found["rows_only_in_a"], found["rows_only_in_b"]) == (1, 1)


def test_temperature_of_ties_only_is_one() -> None:
    assert calibration(np.zeros(3))["temperature"] == 1.0
