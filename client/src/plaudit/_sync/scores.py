# Generated from ../_async/scores.py by `make client-models`. Do not edit.
"""Score replies with the service; ``client.score`` and ``client.reward_function``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plaudit._calls import Call, parse
from plaudit._scores import MAX_REPLIES, Reply, as_groups, chunks
from plaudit._sync.concurrency import Rewards
from plaudit._sync.transport import Transport
from plaudit.models import ScoreResponse

#: The service holds requests while a scorer starts, and scores what is before them in its queue.
READ_SECONDS = 1800.0


def send_scores(
    transport: Transport, body: dict[str, Any], if_score_spec: str | None
) -> ScoreResponse:
    """Send one request; it is pure, so that it may be sent again."""
    headers = {} if if_score_spec is None else {"If-Score-Spec": if_score_spec}
    call = Call("POST", "/v1/score", body=body, headers=headers, read_seconds=READ_SECONDS)
    return parse(ScoreResponse, transport.send(call))


def make_reward_function(transport: Transport, body: dict[str, Any]) -> Callable[..., Rewards]:
    """Return a function as TRL's GRPOTrainer and RLOOTrainer call it."""

    def plaudit_reward(
        prompts: Sequence[Reply], completions: Sequence[Reply], **_columns: Any
    ) -> list[float]:
        rewards: list[float] = []
        for part in chunks(list(zip(prompts, completions, strict=True)), MAX_REPLIES):
            answer = send_scores(transport, {**body, "groups": as_groups(part)}, None)
            for data in answer.data:
                rewards += data.scores
        return rewards

    return plaudit_reward
