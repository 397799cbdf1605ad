"""Left truncation: remove the beginning of overlong texts, and keep the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.reward_model.token_cache import Ids


def truncate_left(ids: Sequence[Any], *, kept: int, max_length: int) -> list[int]:
    """Return the first ``kept`` tokens and as many last ones as fit into ``max_length``.

    ``kept`` is the number of tokens that begin every text, such as BOS or [CLS], at which an
    encoder reads its score. The model card's program has the same expression.
    """
    return [*ids[:kept], *ids[kept:][-(max_length - kept) :]]


def common_prefix_length(ours: Ids, theirs: Ids) -> int:
    """Return the length of the common prefix of two sequences, in tokens."""
    length = min(len(ours), len(theirs))
    differ = np.flatnonzero(ours[:length] != theirs[:length])
    return int(differ[0]) if len(differ) else length


def fits_when_cut(
    longest: NDArray[np.int64], prefix: NDArray[np.int64], *, kept: int, max_length: int
) -> NDArray[np.bool_]:
    """Return which pairs have a prompt that is long enough to be cut until the replies fit.

    Args:
        longest: tokens of the longer text of each pair.
        prefix: tokens that both texts of a pair begin with.
        kept: tokens that a cut keeps at the beginning.
        max_length: tokens that a text may have.
    """
    if max_length <= kept:
        return np.zeros(len(longest), dtype=np.bool_)
    fits: NDArray[np.bool_] = longest - max_length <= prefix - kept
    return fits
