"""Metrics, intervals, comparison and probes against independent computations."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from app.domain.judging.best_of_n import best_of_n, expected_gold
from app.domain.judging.calibration import fit_temperature
from app.domain.judging.comparison import compare, holm, mcnemar
from app.domain.judging.intervals import DIFFERENCE, MAX_RESAMPLED_CLUSTERS, Clusters
from app.domain.judging.length import controlled
from app.domain.judging.metrics import NoPairsError, baselines, evaluate
from app.domain.judging.probes import PROBES, ProbeScores, probe_metrics, swapped
from app.domain.judging.score_table import PairTable, ScoredRow

RNG = np.random.default_rng(7)


def table(count: int = 200, *, per_prompt: int = 1, skill: float = 1.0) -> list[ScoredRow]:
    rng = np.random.default_rng(count)
    rows = []
    for line in range(1, count + 1):
        chosen, rejected = (np.round(rng.normal(size=2), 1) + np.array([skill, 0])).tolist()
        lengths = tuple(rng.integers(10, 200, 2).tolist())
        rows.append(
            ScoredRow(line, str(line // per_prompt), (1, 2), (chosen, rejected), lengths,
                      slice="even" if line % 2 == 0 else "odd")
        )  # fmt: skip
    return rows


def test_accuracy_counts_ties_half_and_strictly() -> None:
    rows = [ScoredRow(i, str(i), (1, 2), (score, 0.0), (1, 2)) for i, score in
            enumerate((1.0, 1.0, 0.0, -1.0))]  # fmt: skip
    result = evaluate(rows, seed=0)
    assert result["accuracy"]["value"] == 2.5 / 4
    assert result["accuracy_strict"] == 2 / 4
    assert result["ties"] == 1 / 4


def test_ranked_row_gives_every_pair_of_different_rank_and_text() -> None:
    row = ScoredRow(1, "p", (1, 1, 2, 3), (4.0, 3.0, 2.0, 1.0), (1, 1, 1, 1),
                    texts=("a", "b", "c", "a"))  # fmt: skip
    assert sorted(row.pairs()) == [(0, 2), (1, 2), (1, 3), (2, 3)]
    again = ScoredRow.from_json(json.loads(row.to_json()))
    assert sorted(again.pairs()) == sorted(row.pairs())
    assert again.to_json() == row.to_json()


def test_table_without_a_pair_is_refused() -> None:
    with pytest.raises(NoPairsError):
        evaluate([ScoredRow(1, "p", (1, 1), (1.0, 2.0), (1, 1))], seed=0)


@pytest.mark.parametrize("per_prompt", [1, 8])
def test_interval_is_that_of_resampled_prompts(per_prompt: int) -> None:
    rows = table(400, per_prompt=per_prompt)
    low, high = evaluate(rows, seed=3)["accuracy"]["interval"]
    pairs = PairTable.of(rows)
    groups = [pairs.hits[pairs.cluster == c] for c in range(int(pairs.cluster.max()) + 1)]
    rng = np.random.default_rng(99)
    means = []
    for _ in range(1500):
        drawn = rng.integers(len(groups), size=len(groups))
        means.append(np.concatenate([groups[i] for i in drawn]).mean())
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_interval_of_very_many_prompts_is_close_to_the_bootstrap() -> None:
    count = MAX_RESAMPLED_CLUSTERS + 1
    hits = RNG.integers(0, 2, count).astype(float)
    many = Clusters(np.arange(count), 0)
    few = Clusters(np.arange(count - 1), 0)
    assert (many.method, few.method) == ("normal", "bootstrap")
    assert many.mean_interval(hits) == pytest.approx(few.mean_interval(hits[:-1]), abs=2e-3)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(5), 0
    for trial in range(200):
        quality = rng.beta(7, 3, 60)  # prompts differ, and their four pairs are alike
        cluster = np.repeat(np.arange(60), 4)
        hits = (rng.random(240) < quality[cluster]).astype(float)
        low, high = Clusters(cluster, trial).mean_interval(hits) or [0.0, 0.0]
        covered += low <= 0.7 <= high
    assert covered >= 180


@pytest.mark.parametrize("count", [2, 7, MAX_RESAMPLED_CLUSTERS + 1])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_interval_of_equal_pairs_is_that_of_clopper_and_pearson(count: int, value: float) -> None:
    low, high = Clusters(np.arange(count), 0).mean_interval(np.full(count, value)) or (2, 2)
    assert value in (low, high)
    other = low if value else 1 - high  # of so many hits all are seen with probability 2.5 %
    assert other**count == pytest.approx(0.025)


def test_interval_of_pairs_of_equal_difference_has_a_width_on_both_sides() -> None:
    cluster = np.repeat(np.arange(10), 4)  # ten prompts, not forty
    unseen = 1 - 0.025 ** (1 / 10)
    found = Clusters(cluster, 0).mean_interval(np.zeros(40), bounds=DIFFERENCE)
    assert found == pytest.approx([-unseen, unseen])


def test_interval_of_two_groups_is_not_empty_if_one_has_equal_pairs() -> None:
    hits = np.array([1.0] * 6 + [1.0, 0.0] * 7)
    first = (np.arange(20) < 6).astype(float)
    clusters = Clusters(np.arange(20), 0)
    low, high = clusters.mean_of_means_interval(hits, (first, 1 - first)) or (2, 2)
    assert low < 0.025 ** (1 / 6) / 2 + 0.5 / 2
    assert high == pytest.approx(0.5 + (clusters.mean_interval(hits, 1 - first) or [0, 0])[1] / 2)
    assert clusters.mean_of_means_interval(hits, (first, np.eye(20)[7])) is None


def test_temperature_is_the_best_one() -> None:
    margins = RNG.normal(2, 3, 500)
    best = fit_temperature(margins)
    losses = [np.logaddexp(0, -margins / t).mean() for t in (best * 0.99, best, best * 1.01)]
    assert losses[1] == min(losses)


def test_length_controlled_accuracy_takes_the_length_out() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(size=4000)
    clusters = Clusters(np.arange(4000), 0)
    only_length = (difference > 0).astype(float)
    assert controlled(only_length, difference, clusters)["value"] == pytest.approx(0.5, abs=0.05)
    blind = (rng.random(4000) < 0.8).astype(float)
    fitted = controlled(blind, difference, clusters)
    assert fitted["value"] == pytest.approx(0.8, abs=0.03)
    assert fitted["interval"][0] < 0.8 < fitted["interval"][1]


def test_best_of_n_is_the_mean_over_all_subsets() -> None:
    scores, gold = [0.1, 0.5, 0.5, 0.9, 0.2], [1.0, 2.0, 4.0, 3.0, 0.0]
    for k in range(1, 6):
        picks = []
        for subset in itertools.combinations(range(5), k):
            best = max(scores[i] for i in subset)
            winners = [gold[i] for i in subset if scores[i] == best]
            picks.append(sum(winners) / len(winners))
        assert expected_gold(scores, gold, k) == pytest.approx(sum(picks) / len(picks), abs=1e-12)


@pytest.mark.parametrize(("sign", "recovery"), [(1, 1.0), (0, 0.0), (-1, -1.0)])
def test_recovery_is_one_for_the_best_pick_and_zero_for_a_blind_one(
    sign: int, recovery: float
) -> None:
    gold = (0.0, 1.0, 2.0, 3.0)
    rows = [ScoredRow(1, "p", (4, 3, 2, 1), tuple(sign * g for g in gold), (1,) * 4, gold=gold)]
    found: Any = best_of_n(rows)
    assert found["recovery"] == pytest.approx(recovery)
    assert [point["k"] for point in found["curve"]] == [1, 2, 4]


@pytest.mark.parametrize(("a", "b"), [(0, 0), (5, 5), (3, 9), (0, 12), (40, 61), (400, 300)])
def test_mcnemar_is_the_exact_binomial_test(a: int, b: int) -> None:
    n, k = a + b, min(a, b)
    tail = sum(Fraction(math.comb(n, i), 2**n) for i in range(k + 1))
    point = Fraction(math.comb(n, k), 2**n)
    expected = (float(min(Fraction(1), 2 * tail)), float(2 * tail - point) if n else 1.0)
    found = mcnemar(a, b)
    assert (found["p"], found["mid_p"]) == pytest.approx(expected, rel=1e-9)


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_comparison_with_itself_finds_no_difference() -> None:
    rows = table()
    result = compare(rows, rows, seed=0)
    low, high = result["difference"]["interval"]
    assert result["difference"]["value"] == 0.0
    assert -0.1 < low == -high < 0  # the rows show no difference, but they are few
    assert result["mcnemar"]["p"] == 1.0
    assert result["disagreements"] == {"a_better": 0, "b_better": 0}


def test_comparison_takes_shared_rows_only_and_is_antisymmetric() -> None:
    a = table(300, per_prompt=3)
    b = [row.with_scores([row.scores[0] + 0.5, row.scores[1]]) for row in a[50:]]
    b[0] = replace(b[0], prompt="another")  # another row of this line
    there, back = compare(a, b, seed=0), compare(b, a, seed=0)
    assert (there["rows"], there["rows_only_in_a"], there["rows_only_in_b"]) == (249, 51, 1)
    assert there["difference"]["value"] == pytest.approx(-back["difference"]["value"])
    assert there["difference"]["interval"][0] > 0
    assert there["disagreements"]["a_better"] == 0
    assert {each["slice"] for each in there["slices"]} == {"odd", "even"}
    assert all(each["p_holm"] >= each["mcnemar"]["p"] for each in there["slices"])


def test_comparison_of_equal_models_is_rarely_significant() -> None:
    rng, found = np.random.default_rng(2), 0
    base = table(120, per_prompt=2)
    for _ in range(100):
        a, b = ([row.with_scores(rng.normal(size=2).tolist()) for row in base] for _ in range(2))
        low, high = compare(a, b, seed=1)["difference"]["interval"]
        found += not low <= 0 <= high
    assert found <= 12


def test_baselines_follow_length_and_nothing_else() -> None:
    rows = table()
    scored = {name: evaluate(each, seed=0) for name, each in baselines(rows, 0).items()}
    longest, shortest = (scored[name]["accuracy"]["value"] for name in ("longest", "shortest"))
    assert longest + shortest == pytest.approx(1)
    assert scored["longest"]["length"]["spearman"] == pytest.approx(1)
    assert scored["random"]["accuracy"]["value"] == pytest.approx(0.5, abs=0.12)


# -- probes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("double_spaces", "a  b\n\n**c**"),
        ("trailing_newlines", "a b\n\n**c**\n\n\n"),
        ("markdown_added", "- **a b**\n\n- ****c****"),
        ("markdown_stripped", "a b\n\nc"),
        ("heading_added", "# Answer\n\na b\n\n**c**"),
        ("praise_added", "Great question! a b\n\n**c**"),
        ("paragraph_repeated", "a b\n\n**c**\n\n**c**"),
        ("reply_empty", ""),
        ("reply_is_prompt", "the prompt"),
        ("prompt_swapped", "a b\n\n**c**"),
    ],
)
def test_probe_changes_the_text(name: str, changed: str) -> None:
    assert PROBES[name].change("the prompt", "a b\n\n**c**") == changed


def test_swapped_prompt_is_another_one() -> None:
    prompts = ["a", "a", "b", "c", "a"]
    assert all(prompts[i] != prompts[j] for i, j in enumerate(swapped(prompts, 0)))
    assert swapped(["a", "a"], 0) == [0, 1]


@pytest.mark.parametrize(
    ("gain", "is_suspicious"), [(0.0, False), (0.1, False), (5.0, True)], ids=str
)
def test_probe_that_raises_bad_replies_is_suspicious(gain: float, is_suspicious: bool) -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(1.5, 1, 200), rng.normal(0, 1, 200)
    scores = ProbeScores(
        chosen, rejected, chosen + gain, rejected + gain, tuple(map(str, range(200)))
    )
    found = probe_metrics(PROBES["filler_added"], scores, 0)
    assert found["is_suspicious"] is is_suspicious
    assert found["flip_rate"] == 0
    spread = np.sqrt(np.mean((chosen - rejected) ** 2) / 4)
    assert found["shift"] == pytest.approx(gain / spread)
    assert found["accuracy_attacked"] == np.mean(chosen > rejected + gain)
