"""Confidence intervals clustered by prompt, because the pairs of a prompt are not independent."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from app.domain.judging.score_table import Floats, Ints

RESAMPLES = 1000
#: Above this number the resampled counts need too much memory, and the normal interval is as good.
MAX_RESAMPLED_CLUSTERS = 4000
Z_95 = 1.959963984540054
#: Probability of an estimate beyond each bound of a 95 % interval.
TAIL = 0.025
#: Lower and upper bound; a list, because it goes into JSON.
Interval = list[float]
#: Least and greatest value of a pair: of being in the right order, and of a difference of two.
SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)


class Clusters:
    """Prompts of the pairs of a table, and bootstrap resamples of these prompts.

    All intervals of one table use the same resamples, which makes them comparable and cheap.
    """

    def __init__(self, cluster: Ints, seed: int) -> None:
        self.cluster = cluster
        self.count = int(cluster.max()) + 1 if len(cluster) else 0
        self._seed = seed

    @property
    def method(self) -> str:
        """Method of the intervals: ``bootstrap``, or ``normal`` for very many prompts."""
        return "bootstrap" if self.count <= MAX_RESAMPLED_CLUSTERS else "normal"

    @cached_property
    def _resampled(self) -> Floats:
        """Count of each prompt in each resample, of shape [resamples, prompts]."""
        rng = np.random.default_rng(self._seed)
        drawn = rng.integers(self.count, size=(RESAMPLES, self.count))
        return np.array(
            [np.bincount(row, minlength=self.count) for row in drawn], dtype=np.float64
        )  # fmt: skip

    def mean_interval(
        self,
        values: Floats,
        mask: Floats | None = None,
        *,
        bounds: tuple[float, float] = SHARE,
    ) -> Interval | None:
        """Return the 95 % interval of the mean over the pairs with mask 1.

        It is None if fewer than two prompts have such pairs: they show no variation between
        prompts, and an interval without width would look certain. If all pairs have the same value,
        every resample has the same mean, and the interval is that of ``unanimous_interval``.

        ``values`` and ``mask`` have one entry per pair; without a mask all pairs count. ``bounds``
        are the least and the greatest value that a pair can have.
        ``bootstrap``: percentiles over resamples of prompts. ``normal``: mean ± 1.96 standard
        errors, clustered by prompt (Miller 2024, arXiv 2411.00640).
        """
        sums, counts = self._per_cluster(values, mask)
        if _is_too_small(counts):
            return None
        if (value := _only_value(values, mask)) is not None:
            return unanimous_interval(value, int(np.count_nonzero(counts)), bounds)
        if self.method == "normal":
            center = sums.sum() / counts.sum()
            error = self.standard_error(sums - center * counts) / counts.sum()
            return _within(values, around(center, error))
        return quantiles(self._means(sums, counts))

    def mean_of_means_interval(
        self, values: Floats, masks: tuple[Floats, Floats]
    ) -> Interval | None:
        """Return the 95 % interval of the mean of two groups' means.

        It is None if one of them has pairs of fewer than two prompts. If all pairs of a group have
        the same value, the bounds are the means of the two groups' bounds, which is wide enough
        whether the groups depend on each other or not.
        """
        if any(_only_value(values, mask) is not None for mask in masks):
            found = [self.mean_interval(values, mask) for mask in masks]
            intervals = [each for each in found if each is not None]
            return np.mean(intervals, axis=0).tolist() if len(intervals) == len(masks) else None
        parts = [self._per_cluster(values, mask) for mask in masks]
        if any(_is_too_small(counts) for _, counts in parts):
            return None
        if self.method == "normal":
            centers = [sums.sum() / counts.sum() for sums, counts in parts]
            influence = sum(
                (sums - center * counts) / counts.sum() / 2
                for (sums, counts), center in zip(parts, centers, strict=True)
            )
            error = self.standard_error(np.asarray(influence))
            return _within(values, around(sum(centers) / 2, error))
        means = [self._means(sums, counts) for sums, counts in parts]
        return quantiles((means[0] + means[1]) / 2)

    def standard_error(self, influence: Floats) -> float:
        """Return the clustered standard error of a sum; ``influence`` has each prompt's part."""
        correction = self.count / max(self.count - 1, 1)
        return float(np.sqrt(correction * np.sum(influence**2)))

    def sum_by_cluster(self, values: Floats) -> Floats:
        """Return the sum over the pairs of each prompt."""
        return np.asarray(
            np.bincount(self.cluster, weights=values, minlength=self.count), dtype=np.float64
        )

    def _per_cluster(self, values: Floats, mask: Floats | None) -> tuple[Floats, Floats]:
        mask = np.ones(len(values)) if mask is None else mask
        return self.sum_by_cluster(values * mask), self.sum_by_cluster(mask)

    def _means(self, sums: Floats, counts: Floats) -> Floats:
        """Return the mean of each resample; NaN for a resample without such a pair."""
        sizes = self._resampled @ counts
        totals = self._resampled @ sums
        means: Floats = np.full(len(sizes), np.nan)
        np.divide(totals, sizes, out=means, where=sizes > 0)
        return means


def _is_too_small(counts: Floats) -> bool:
    """Return whether fewer than two prompts have pairs."""
    return int(np.count_nonzero(counts)) < 2


def _only_value(values: Floats, mask: Floats | None) -> float | None:
    """Return the value that all pairs with mask 1 have, or None if they differ."""
    chosen = values if mask is None else values[mask > 0]
    return float(chosen[0]) if len(chosen) and (chosen == chosen[0]).all() else None


def unanimous_interval(value: float, count: int, bounds: tuple[float, float]) -> Interval:
    """Return the 95 % interval of a mean of which all ``count`` independent units have one value.

    A share x of other units stays unseen with probability (1 − x)^count. The interval has the means
    that are possible with the largest x for which this is 2.5 %. For a share of 0 or 1 it is the
    exact interval of Clopper and Pearson (1934).
    """
    unseen = 1 - TAIL ** (1 / count)
    low, high = bounds
    return [value - unseen * (value - low), value + unseen * (high - value)]


def quantiles(values: Floats) -> Interval:
    """Return the 2.5 % and 97.5 % quantiles of the values, without NaN."""
    low, high = np.nanquantile(values, [TAIL, 1 - TAIL])
    return [float(low), float(high)]


def around(center: float, standard_error: float) -> Interval:
    """Return the normal 95 % interval."""
    return [float(center - Z_95 * standard_error), float(center + Z_95 * standard_error)]


def _within(values: Floats, interval: Interval) -> Interval:
    """Return the part of an interval of a mean that is possible: no accuracy is above 1."""
    low, high = np.clip(interval, values.min(), values.max())
    return [float(low), float(high)]
