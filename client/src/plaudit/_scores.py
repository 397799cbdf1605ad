"""The bodies of scoring requests. Shared by both clients; does no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, TypedDict, TypeVar

from plaudit import params
from plaudit.errors import UnexpectedResponseError
from plaudit.models import ScoreResponse

Reply = str | list[dict[str, Any]]
Model = str | params.Ensemble
T = TypeVar("T")


class ScoreOptions(TypedDict, total=False):
    """Options of a scoring request; see ``params.ScoreRequest``."""

    normalize: Literal["none", "zscore", "sigmoid"]
    truncation: Literal["error", "left", "right"]
    max_length: int
    deterministic: bool
    return_: list[Literal["tokens", "members"]]


#: Maximum number of replies per request of a reward function.
MAX_REPLIES = 1024


def score_body(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a scoring request; options that are None are omitted."""
    body = {name.rstrip("_"): value for name, value in options.items() if value is not None}
    return {"model": model, **body}


def as_groups(pairs: Sequence[tuple[Reply, Reply]]) -> list[dict[str, Any]]:
    """Return prompts with their replies; adjacent pairs with the same prompt share a group."""
    return [
        {"prompt": prompt, "responses": [reply for _, reply in group]}
        for prompt, group in groupby(pairs, key=lambda pair: pair[0])
    ]


def rewards_of(answer: ScoreResponse, replies: int) -> list[float]:
    """Return the scores of a response, in the order of its replies.

    Raises:
        UnexpectedResponseError: there is not one finite score for each reply. A trainer would learn
            from wrong rewards without an error.
    """
    rewards = [score for data in answer.data for score in data.scores]
    if len(rewards) != replies or not all(map(math.isfinite, rewards)):
        raise UnexpectedResponseError(
            f"The service returned {len(rewards)} scores for {replies} replies, of which "
            f"{sum(map(math.isfinite, rewards))} are finite numbers.",
            hint="Check that client and service have the same version.",
        )
    return rewards


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in parts of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
