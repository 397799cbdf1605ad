"""The certificate compares scores: good adapters pass at any noise level, and bad ones fail."""

from __future__ import annotations

import numpy as np
import pytest

from worker.trainer.evaluation.scores import Floats
from worker.trainer.export.score_comparison import ScoreComparison

BF16_FLOOR = 5e-2
RUNS = 1000


def draw(
    rng: np.random.Generator, *, has_clusters: bool
) -> tuple[ScoreComparison, ScoreComparison]:
    """Draw a reload of 16 probes in bfloat16, and the same with a random head.

    Hidden states have a common part and 1.3 to 3 % of noise, as those of 28 layers had; scores have
    a standard deviation of 1 to 5. With clusters, chosen and rejected texts are far apart.
    """
    width = 64
    hidden = rng.normal(size=width) * rng.uniform(0, 2) + rng.normal(size=(32, width))
    head, other = rng.normal(size=(2, width))
    if has_clusters:
        hidden[::2] += 3 * head / np.linalg.norm(head)
    scale = rng.uniform(1, 5) / (hidden @ head).std()
    noise = rng.uniform(0.013, 0.03) * np.linalg.norm(hidden, axis=1, keepdims=True) / width**0.5

    def scores(weights: Floats) -> Floats:
        return (hidden + noise * rng.normal(size=hidden.shape)) @ weights * scale

    of_training = scores(head), scores(head)
    return (
        ScoreComparison(*of_training, scores(head), scores(head), BF16_FLOOR),
        ScoreComparison(*of_training, scores(other), scores(other), BF16_FLOOR),
    )


@pytest.mark.parametrize("has_clusters", [False, True], ids=["spread out", "in two clusters"])
def test_noise_of_bfloat16_refuses_no_good_adapter_and_hides_no_random_head(has_clusters):
    rng = np.random.default_rng(14)
    drawn = [draw(rng, has_clusters=has_clusters) for _ in range(RUNS)]
    assert [good for good, _ in drawn if not good.is_within] == []
    assert [bad for _, bad in drawn if bad.is_within] == []
    # A tolerance that depends on the score alone would reject many of them.
    assert sum(bool((g.relative_differences > BF16_FLOOR).any()) for g, _ in drawn) > RUNS / 3


def comparison(
    expected: list[float], reloaded: list[float], expected_padded: list[float] | None = None
) -> ScoreComparison:
    return ScoreComparison(
        np.array(expected), np.array(expected_padded or expected), *[np.array(reloaded)] * 2, 1e-5
    )


def test_scores_in_another_order_are_refused_even_within_the_tolerance():
    """One noisy probe widens the tolerance for all; the order of the others still counts."""
    scores = [float(i) for i in range(32)]
    noisy = [*scores[:-1], 40.0]
    assert comparison(scores, scores, noisy).is_within
    swapped = [scores[i + 8 if i % 16 < 8 else i - 8] for i in range(32)]
    found = comparison(scores, swapped, noisy)
    assert found.differences.max() < 4 * found.noise
    assert not found.is_within


def test_texts_with_the_same_score_have_no_order():
    expected = [float(i // 2) for i in range(40)]
    reloaded = [score + (1e-7 if i % 2 else -1e-7) for i, score in enumerate(expected)]
    found = comparison(expected, reloaded)
    assert found.correlation == pytest.approx(1.0)
    assert found.is_within


@pytest.mark.parametrize(
    ("reloaded", "is_within"), [([1.0, 2.0], True), ([1.0, 2.001], False), ([1.0, np.nan], False)]
)
def test_few_texts_are_compared_by_their_scores_alone(reloaded, is_within):
    found = comparison([1.0, 2.0], reloaded)
    assert found.is_within is is_within
    assert found.correlation is None
