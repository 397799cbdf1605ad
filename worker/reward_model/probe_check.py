"""Check that an adapter in memory gives its probes the same scores as in training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.reward_model.reply_tokenizer import ReplyTokenizer
from worker.reward_model.resident_model import ReplyGroup, ResidentModel

#: Token budget for probes, so that long texts do not delay a request.
MAX_TOKENS = 4096
#: Smallest tolerance, as a share of 1 + |score|, because another machine may add numbers in another
#: order. The certificate uses the same value for float32.
MIN_TOLERANCE = 1e-5


class ScoresDifferError(Exception):
    """The scores differ from those of the training."""


def check_probes(
    model: ResidentModel,
    adapter: str,
    tokenizer: ReplyTokenizer,
    file: Path,
    certificate: Mapping[str, Any],
) -> None:
    """Score the probes and compare the scores with those of the training.

    If packed rows give other scores, the adapter is switched to padded batches.

    Raises:
        ScoresDifferError: the scores differ by more than the certificate allows.
    """
    groups, expected = _read(adapter, tokenizer, file)
    tolerance = max(float(certificate.get(name, 0.0)) for name in ("tolerance", "noise_tolerance"))
    tolerance = max(tolerance, MIN_TOLERANCE)
    if model.is_packed(adapter) and _worst(model, groups, expected) > tolerance:
        model.use_stock(adapter)
    if not model.is_packed(adapter) and (worst := _worst(model, groups, expected)) > tolerance:
        raise ScoresDifferError(
            f"its probes get other scores here than in training: the difference is {worst:.1e} of "
            f"1 + |score|, but only {tolerance:.0e} is allowed"
        )


def _worst(model: ResidentModel, groups: list[ReplyGroup], expected: list[list[float]]) -> float:
    """Return the largest difference as a share of 1 + |score|, or infinity if packing fails."""
    try:
        found = model.score(groups).rewards
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError):
        if model.is_packed(groups[0].adapter):
            return float("inf")  # the model cannot be packed; a static check cannot know that
        raise
    shares = [
        abs(ours - theirs) / (1 + abs(theirs))
        for pair in zip(found, expected, strict=True)
        for ours, theirs in zip(*pair, strict=True)
    ]
    return max((share if share == share else float("inf") for share in shares), default=0.0)


def _read(
    adapter: str, tokenizer: ReplyTokenizer, file: Path
) -> tuple[list[ReplyGroup], list[list[float]]]:
    groups: list[ReplyGroup] = []
    expected: list[list[float]] = []
    for line in file.read_text().splitlines():
        probe = json.loads(line)
        group = ReplyGroup(adapter, tokenizer.encode_rendered([probe["chosen"], probe["rejected"]]))
        if groups and sum(g.token_count for g in groups) + group.token_count > MAX_TOKENS:
            break
        groups.append(group)
        expected.append([probe["chosen_score"], probe["rejected_score"]])
    return groups, expected
