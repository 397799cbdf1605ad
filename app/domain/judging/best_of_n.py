"""Best-of-n: the quality of the reply that a reward model picks."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from app.domain.judging.score_table import ScoredRow


def expected_gold(scores: Sequence[float], gold: Sequence[float], k: int) -> float:
    """Return the expected gold score of the best of ``k`` replies, over all subsets of that size.

    If ``lo`` of n replies score below a value and ``hi`` at most that value, it is the maximum of
    C(hi, k) − C(lo, k) of the C(n, k) subsets. Replies with equal scores are picked with equal
    probability. The result is exact, unlike an estimate from drawn subsets.
    """
    groups: dict[float, list[float]] = {}
    for score, value in zip(scores, gold, strict=True):
        groups.setdefault(score, []).append(value)
    total, low = 0.0, 0
    for score in sorted(groups):
        high = low + len(groups[score])
        share = (comb(high, k) - comb(low, k)) / comb(len(scores), k)
        total += share * sum(groups[score]) / len(groups[score])
        low = high
    return total


def best_of_n(rows: Sequence[ScoredRow]) -> dict[str, object] | None:
    """Return the curve over k = 1, 2, 4, … and the recovery, or None without gold scores.

    The curve ends at the smallest number of replies of a row, so that all its points are means over
    the same rows. ``recovery`` is (gold of the pick − mean gold) / (best gold − mean gold), each
    summed over rows: 0 for a random pick, 1 for always picking the best.
    """
    usable = [row for row in rows if row.gold is not None and len(row.gold) > 1]
    if not usable:
        return None
    smallest = min(len(row.scores) for row in usable)
    sizes = [2**i for i in range(smallest.bit_length()) if 2**i <= smallest]
    if sizes[-1] != smallest:
        sizes.append(smallest)
    curve = []
    for k in sizes:
        picked = [expected_gold(row.scores, row.gold or (), k) for row in usable]
        best = [expected_gold(row.gold or (), row.gold or (), k) for row in usable]
        curve.append(
            {"k": k, "gold": sum(picked) / len(usable), "best": sum(best) / len(usable)}
        )  # fmt: skip
    gained = possible = 0.0
    for row in usable:
        # Relative to the best one: equal values then give exactly 0, without rounding errors.
        gold = [value - max(row.gold or ()) for value in row.gold or ()]
        average = sum(gold) / len(gold)
        gained += expected_gold(row.scores, gold, len(gold)) - average
        possible -= average
    recovery = gained / possible if possible else None
    return {"curve": curve, "recovery": recovery, "rows": len(usable)}
