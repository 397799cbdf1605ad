"""Accepted work: its token ids, its unfinished units, and its results."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from app.domain.scoring import ScoredItem, ScoredWork, ScoreProblem, ScoreWork
from worker.reward_model.reply_tokenizer import ItemInvalidError
from worker.reward_model.resident_model import ReplyGroup
from worker.scorer.adapter_pool import ResidentAdapter
from worker.scorer.errors import ScoreRefusedError

#: Longest text for a model whose configuration names no limit.
MAX_TOKENS = 131_072


class Unit(NamedTuple):
    """The replies of one item for one adapter; they are computed together."""

    member: int
    item: int
    group: ReplyGroup


@dataclass
class Submitted:
    """Work as it arrived, with the future of its result."""

    work: ScoreWork
    answer: Future[ScoredWork] = field(default_factory=Future)
    arrived_at: float = field(default_factory=time.monotonic)
    #: Its adapters that are in memory and pinned, in the order of ``work.adapters``.
    adapters: list[ResidentAdapter] = field(default_factory=list)

    def release(self) -> None:
        """Unpin its adapters, so that they can be evicted."""
        for adapter in self.adapters:
            adapter.pins -= 1
        self.adapters.clear()


class Pending:
    """Tokenised work whose adapters are in memory."""

    def __init__(self, submitted: Submitted) -> None:
        work = submitted.work
        self.submitted, self.adapters = submitted, submitted.adapters
        self.is_deterministic = work.deterministic
        self.computed_tokens = 0.0
        self.units: deque[Unit] = deque()
        self.rewards: dict[tuple[int, int], list[float]] = {}
        self._shown: list[tuple[list[int], list[bool]]] = []
        for member, adapter in enumerate(self.adapters):
            for i in range(len(work.items)):
                ids, is_cut = _encode(work, i, adapter)
                self.units.append(Unit(member, i, ReplyGroup(adapter.id, ids)))
                if member == 0:
                    self._shown.append(([len(each) for each in ids], is_cut))
        self.prompt_tokens = sum(unit.group.token_count for unit in self.units)

    @property
    def is_done(self) -> bool:
        """Whether every unit has its rewards."""
        return len(self.rewards) == len(self.adapters) * len(self.submitted.work.items)

    def result(self) -> ScoredWork:
        """Return all rewards; call it only if ``is_done``."""
        members = range(len(self.adapters))
        return ScoredWork(
            items=[
                ScoredItem(
                    scores=[self.rewards[member, i] for member in members],
                    tokens=tokens,
                    truncated=is_cut,
                )
                for i, (tokens, is_cut) in enumerate(self._shown)
            ],
            prompt_tokens=self.prompt_tokens,
            computed_tokens=round(self.computed_tokens),
        )


def _encode(
    work: ScoreWork, index: int, adapter: ResidentAdapter
) -> tuple[list[list[int]], list[bool]]:
    """Return token ids of the item's replies within the limit, and which ones were cut.

    Raises:
        ScoreRefusedError: names the item at fault.
    """
    try:
        encoded = adapter.tokenizer.encode(work.items[index])
    except ItemInvalidError as error:
        raise _refused("item_invalid", error.detail, index, error.response) from error
    most = adapter.model.max_positions or MAX_TOKENS
    limit = min(work.max_length or adapter.tokenizer.max_length, most)
    is_cut = [len(ids) > limit for ids in encoded]
    if work.truncation == "error" and any(is_cut):
        at = is_cut.index(True)
        detail = (
            f"the text has {len(encoded[at])} tokens, and {limit} are allowed: the adapter was "
            f"trained with {adapter.tokenizer.max_length}, and the model takes at most {most}"
        )
        raise _refused("item_too_long", detail, index, at)
    return [adapter.tokenizer.truncated(ids, limit, work.truncation) for ids in encoded], is_cut


def _refused(code: str, detail: str, item: int, response: int | None) -> ScoreRefusedError:
    problem = {"code": code, "detail": detail, "item": item, "response": response}
    return ScoreRefusedError(ScoreProblem.model_validate(problem))
