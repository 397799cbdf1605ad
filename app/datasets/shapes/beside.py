"""Shapes in which the better reply ends a conversation or has a column of its own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datasets.row_errors import RowError, shown
from app.datasets.shapes.example_messages import GOOD, USER
from app.datasets.shapes.sample import Sample, rewritten
from app.datasets.shapes.shape import PROMPTS, Parts, Shape

_MESSAGES, _REJECTED, _RESPONSE = "messages", "rejected_messages", "rejected_response"
_REPLIES = ("response", "output", "answer", "completion", "reply", "text")
_WHOLE = Parts(chosen=(_MESSAGES,), rejected=(_REJECTED,))
_CANDIDATES = Parts(prompt=(_MESSAGES,), chosen=("chosen",), rejected=("rejected",))


def _last_messages(sample: Sample) -> list[dict[str, Any]]:
    lists = (value for value in sample.values(_MESSAGES) if isinstance(value, list) and value)
    return [value[-1] for value in lists if isinstance(value[-1], dict)]


def _whole_conversations(sample: Sample) -> Parts | None:
    """Return the parts if `messages` ends with a reply and another column has the worse reply."""
    has_worse = sample.has(_REJECTED) or sample.has(_RESPONSE)
    last = _last_messages(sample)
    is_reply = bool(last) and all(message.get("role") == "assistant" for message in last)
    has_better = sample.has("chosen") or sample.has("chosen_response")
    return _WHOLE if has_worse and is_reply and not has_better else None


def _with_rejected_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write the worse reply as a conversation that begins as `messages` does."""
    worse, messages = row.get(_RESPONSE), row.get(_MESSAGES)
    if worse is None or row.get(_REJECTED) is not None or not isinstance(messages, list):
        return dict(row)
    made = {name: value for name, value in row.items() if name != _RESPONSE}
    reply = worse if isinstance(worse, dict) else {"role": "assistant", "content": worse}
    return {**made, _REJECTED: [*messages[:-1], reply]}


def _candidate_messages(sample: Sample) -> Parts | None:
    """Return the parts if the last message has candidates, or the rows are converted already."""
    if any(isinstance(message.get("candidates"), list) for message in _last_messages(sample)):
        return _CANDIDATES
    return None


def _without_candidates(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the candidates of the last message by chosen and rejected messages.

    Raises:
        RowError: the last message has no candidates with both labels.
    """
    messages = row.get(_MESSAGES)
    messages = messages if isinstance(messages, list) else []
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    candidates = last.get("candidates")
    candidates = candidates if isinstance(candidates, list) else []
    sides: dict[str, list[list[dict[str, Any]]]] = {"preferred": [], "non-preferred": []}
    for candidate in candidates:
        label = candidate.get("preferenceLabel") if isinstance(candidate, dict) else None
        if isinstance(label, str) and label in sides:
            kept = {key: value for key, value in candidate.items() if key != "preferenceLabel"}
            sides[label].append([{"role": "assistant", **kept}])
    at = f"{_MESSAGES}[{len(messages) - 1}]" if messages else _MESSAGES
    if not all(sides.values()) or sum(map(len, sides.values())) < len(candidates):
        raise RowError(
            "invalid_label",
            "the last message has no candidates that are preferred and non-preferred, or others",
            'give each candidate a "preferenceLabel": "preferred" or "non-preferred"',
            column=at,
        )
    if beside := [key for key in last if key not in ("role", "candidates") and last[key]]:
        raise RowError(
            "two_values",
            f"the message has {shown(beside[0])} beside its candidates",
            "write its text into the candidates, or leave it out",
            column=at,
        )
    better, worse = (side[0] if len(side) == 1 else side for side in sides.values())
    return rewritten(row, (_MESSAGES,), messages=messages[:-1], chosen=better, rejected=worse)


def _is_reply_beside_prompt(sample: Sample) -> bool:
    """Return whether there is a prompt; `text` is a reply only beside `rejected_text`."""
    has_reply = sample.has("rejected_text") or any(map(sample.has, _REPLIES[:-1]))
    return has_reply and any(map(sample.has, PROMPTS))


BESIDE: tuple[Shape, ...] = (
    Shape(
        name="candidates",
        summary="The last of the `messages` has `candidates` with a `preferenceLabel`.",
        seen_in="the preference format of Amazon Nova",
        parts=_CANDIDATES,
        find=_candidate_messages,
        convert=_without_candidates,
        harmless=frozenset({"schemaVersion"}),
        examples=(
            {
                "system": [{"text": "You are helpful."}],
                "messages": [
                    {"role": "user", "content": [{"text": "What is 2+2?"}]},
                    {
                        "role": "assistant",
                        "candidates": [
                            {"content": [{"text": "It is 4."}], "preferenceLabel": "preferred"},
                            {"content": [{"text": "It is 5."}], "preferenceLabel": "non-preferred"},
                        ],
                    },
                ],
            },
        ),
    ),
    Shape(
        name="messages_and_rejected",
        summary="A conversation in `messages` that ends with the better reply, and the worse one "
        "in `rejected_response`, or a whole conversation in `rejected_messages`.",
        seen_in="ms-swift's preference formats",
        parts=_WHOLE,
        find=_whole_conversations,
        convert=_with_rejected_messages,
        examples=(
            {"messages": [USER, GOOD], "rejected_response": "It is 5."},
            {
                "messages": [USER, GOOD],
                "rejected_messages": [USER, {**GOOD, "content": "It is 5."}],
            },
        ),
    ),
    Shape(
        name="reply_and_rejected",
        summary="A reply (`response`, `output`, `answer` …) and a worse one (`rejected_response`, "
        "`rejected_answer` …).",
        seen_in="ms-swift, H2O LLM Studio, AutoTrain",
        parts=Parts(
            prompt=PROMPTS,
            input=("input",),
            chosen=_REPLIES,
            rejected=tuple(f"rejected_{name}" for name in _REPLIES),
        ),
        lacks=("chosen", "rejected", "chosen_response"),
        when=_is_reply_beside_prompt,
        examples=(
            {"query": "What is 2+2?", "response": "It is 4.", "rejected_response": "It is 5."},
        ),
    ),
)
