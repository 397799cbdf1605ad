# Generated from ../_async/scores.py by `make client-models`. Do not edit.
"""Scores replies with the service; ``client.score`` and ``client.reward_function``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plaudit._calls import Call, parse
from plaudit._scores import MAX_REPLIES, Reply, as_groups, chunks, rewards_of
from plaudit._sync.concurrency import Rewards
from plaudit._sync.transport import Transport
from plaudit.models import ScoreResponse

#: Read timeout: a request may wait until a scorer has started and has scored earlier requests.
READ_SECONDS = 1800.0


def send_scores(
    transport: Transport, body: dict[str, Any], if_score_spec: str | None
) -> ScoreResponse:
    """Send one scoring request. It has no side effects, so it may be retried."""
    headers = {} if if_score_spec is None else {"If-Score-Spec": if_score_spec}
    call = Call("POST", "/v1/score", body=body, headers=headers, read_seconds=READ_SECONDS)
    return parse(ScoreResponse, transport.send(call))


def make_reward_function(transport: Transport, body: dict[str, Any]) -> Callable[..., Rewards]:
    """Return a function with the signature that TRL's GRPOTrainer and RLOOTrainer expect."""

    def plaudit_reward(
        prompts: Sequence[Reply], completions: Sequence[Reply], **_columns: Any
    ) -> list[float]:
        rewards: list[float] = []
        for part in chunks(list(zip(prompts, completions, strict=True)), MAX_REPLIES):
            answer = send_scores(transport, {**body, "groups": as_groups(part)}, None)
            rewards += rewards_of(answer, len(part))
        return rewards

    return plaudit_reward
