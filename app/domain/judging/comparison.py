"""Compare two models on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log
from typing import Any

import numpy as np

from app.domain.judging.intervals import DIFFERENCE, Clusters
from app.domain.judging.metrics import NoPairsError, slice_mask, slice_names
from app.domain.judging.score_table import Floats, PairTable, ScoredRow


def compare(a: Sequence[ScoredRow], b: Sequence[ScoredRow], *, seed: int) -> dict[str, Any]:
    """Compare the accuracies of b and a on the rows that both tables have (by line).

    ``difference`` is the accuracy of b minus that of a, where a tie counts as half, with a 95 %
    interval from resampling prompts (Miller 2024, arXiv 2411.00640). ``mcnemar`` is the exact test
    on the discordant pairs (Dietterich 1998); it assumes independent pairs. The p-values of slices
    are adjusted with Holm's method (1979).

    Raises:
        NoPairsError: the tables have no pair in common.
    """
    in_b = {row.line: row for row in b}
    shared = [(row, in_b[row.line]) for row in a if _is_same(row, in_b.get(row.line))]
    pairs_a, pairs_b = (PairTable.of([each[i] for each in shared]) for i in (0, 1))
    if not len(pairs_a):
        raise NoPairsError("the evaluations have no pair in common")
    clusters = Clusters(pairs_a.cluster, seed)
    hits_a, hits_b = pairs_a.hits, pairs_b.hits
    everything = np.ones(len(pairs_a))
    slices = []
    for name in slice_names(pairs_a, None):
        mask = slice_mask(pairs_a, name)
        slices.append({"slice": name, **_paired(hits_a, hits_b, mask, clusters)})
    for entry, adjusted in zip(slices, holm([e["mcnemar"]["p"] for e in slices]), strict=True):
        entry["p_holm"] = adjusted
    return {
        "rows": len(shared),
        "rows_only_in_a": len(a) - len(shared),
        "rows_only_in_b": len(b) - len(shared),
        "prompts": clusters.count,
        "interval_method": clusters.method,
        **_paired(hits_a, hits_b, everything, clusters),
        "slices": slices,
    }


def _is_same(a: ScoredRow, b: ScoredRow | None) -> bool:
    """Return whether two rows of the same line have the same pairs.

    Their lengths may differ: an adapter of conversations reads texts without the white space at
    their ends.
    """
    if b is None or (a.prompt, a.ranks) != (b.prompt, b.ranks):
        return False
    return list(a.pairs()) == list(b.pairs())


def _paired(hits_a: Floats, hits_b: Floats, mask: Floats, clusters: Clusters) -> dict[str, Any]:
    difference = hits_b - hits_a
    pairs = mask.sum()
    only_a, only_b = (int(((difference * sign > 0) * mask).sum()) for sign in (-1, 1))
    return {
        "pairs": int(pairs),
        "accuracy_a": float((hits_a * mask).sum() / pairs),
        "accuracy_b": float((hits_b * mask).sum() / pairs),
        "difference": {
            "value": float((difference * mask).sum() / pairs),
            "interval": clusters.mean_interval(difference, mask, bounds=DIFFERENCE),
        },
        "disagreements": {"a_better": only_a, "b_better": only_b},
        "mcnemar": mcnemar(only_a, only_b),
    }


def mcnemar(only_a: int, only_b: int) -> dict[str, float]:
    """Return the exact two-sided p-value and the mid-p-value of discordant counts.

    Under the null hypothesis each count is binomial(n, 1/2). The mid-p-value counts half of the
    probability of the observed outcome, and is less conservative.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return {"p": 1.0, "mid_p": 1.0}
    log_terms = [
        lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) - n * log(2) for i in range(k + 1)
    ]  # fmt: skip
    terms = np.exp(np.array(log_terms))
    p = min(1.0, 2 * float(terms.sum()))
    return {"p": p, "mid_p": min(1.0, 2 * float(terms.sum()) - float(terms[-1]))}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = least
    return adjusted
