"""Compare the scores of a reloaded adapter with those of its training.

In float32 both agree to rounding errors. In bfloat16 the noise of a score grows with the norms of
the head and of the hidden state, not with the score, and differs between models. It is therefore
measured: the trainer scores every probe alone and in a padded batch, and the difference is the
noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.trainer.evaluation.metrics import rank_correlation
from worker.trainer.evaluation.scores import Floats

#: A reload may differ by this many times the largest difference within the training.
NOISE_FACTOR = 4.0
#: Upper limit of that difference, as a share of the standard deviation of the scores: if the
#: trainer scored a text wrongly in one of its two ways, the limit must not become arbitrary.
MAX_SHARE_OF_SPREAD = 0.5
#: Rank correlation that a reload must reach, unless noise keeps the training itself below it.
MIN_CORRELATION = 0.99
#: Number of distinct scores from which on ranks are compared. With few scores, two similar ones may
#: swap their ranks by chance.
MIN_RANKED = 16


@dataclass(frozen=True)
class ScoreComparison:
    """Scores of the same texts: chosen and rejected of the first probe, then of the next one.

    ``expected`` and ``expected_padded`` are scores of the training, ``alone`` and ``padded`` of a
    reload. ``floor`` is the share of 1 + |score| that a score may always differ by.
    """

    expected: Floats
    expected_padded: Floats
    alone: Floats
    padded: Floats
    floor: float

    @property
    def differences(self) -> Floats:
        """Largest absolute difference of each text."""
        reloads = np.stack([self.alone, self.padded])
        found: Floats = np.abs(reloads - self.expected).max(axis=0)
        return found

    @property
    def relative_differences(self) -> Floats:
        """Differences as shares of 1 + |expected score|."""
        found: Floats = self.differences / (1 + np.abs(self.expected))
        return found

    @property
    def noise(self) -> float:
        """Largest difference between the two scores of a text in the training."""
        return float(np.abs(self.expected_padded - self.expected).max(initial=0.0))

    @property
    def allowed_noise(self) -> float:
        """Absolute difference that noise may cause."""
        spread = float(np.std(self.expected)) if len(self.expected) else 0.0
        return min(NOISE_FACTOR * self.noise, MAX_SHARE_OF_SPREAD * spread)

    @property
    def correlation(self) -> float | None:
        """Lower one of the reload's two rank correlations; None for too few texts."""
        found = [self._correlation(scores) for scores in (self.alone, self.padded)]
        return min((value for value in found if value is not None), default=None)

    @property
    def required_correlation(self) -> float | None:
        """Required rank correlation; None for too few texts.

        Noise lowers a correlation in proportion to its square.
        """
        own = self._correlation(self.expected_padded)
        return None if own is None else min(MIN_CORRELATION, 1 - NOISE_FACTOR**2 * (1 - own))

    @property
    def is_within(self) -> bool:
        """Whether the scores of the reloaded model match those of the trained one."""
        allowed = np.maximum(self.floor * (1 + np.abs(self.expected)), self.allowed_noise)
        if not (self.differences <= allowed).all():  # also refuses NaN
            return False
        required, found = self.required_correlation, self.correlation
        return required is None or found is None or found >= required

    def _correlation(self, scores: Floats) -> float | None:
        """Return the rank correlation; equal expected scores count once, as their mean."""
        distinct, group = np.unique(self.expected, return_inverse=True)
        if len(distinct) < MIN_RANKED:
            return None
        means = np.bincount(group, weights=scores) / np.bincount(group)
        return rank_correlation(distinct, means)
