"""Join the parts of a conversation, so that prompt and replies hold each message once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.datasets.conversations import Message
from app.datasets.row_errors import RowError, shown

_SYSTEM_ROLES = ("system", "developer")


class Before(NamedTuple):
    """Parts of a row that precede the replies."""

    system: str | None = None
    history: Sequence[Message] = ()
    prompt: str | list[Message] | None = None
    prompt_column: str = "prompt"
    system_column: str = "system"


def join(before: Before, paths: list[str], sides: list[list[Message]]) -> list[Any]:
    """Return [prompt, *replies], each a list of messages; ``sides`` are the uploaded replies.

    If the sides are whole conversations, the prompt is their common beginning.

    Raises:
        RowError: ``prompt_repeated``, ``prompt_mismatch`` or ``two_values``: the row has two
            different prompts or system texts.
    """
    system, history, prompt, *_ = before
    head = list(history)
    if isinstance(prompt, str):
        if not history and not any(side[0]["role"] == "assistant" for side in sides):
            _check_prompt_is_said(prompt, before.prompt_column, paths, sides)
        else:
            head.append({"content": prompt, "role": "user"})
    elif prompt:
        head += prompt
    if head:
        head, sides = _without_head(head, paths, sides)
    else:
        count = _common(sides)
        head, sides = sides[0][:count], [side[count:] for side in sides]
    if system is not None:
        head = _with_system(system, before.system_column, head)
    return [head, *sides]


def _check_prompt_is_said(
    prompt: str, column: str, paths: list[str], sides: list[list[Message]]
) -> None:
    """Reject conversations in which no user message is the text of the prompt."""
    said = prompt.strip()
    for path, side in zip(paths, sides, strict=True):
        for message in side:
            if message["role"] == "user" and (message["content"] or "").strip() == said:
                break
        else:
            raise RowError(
                "prompt_mismatch",
                f"{path} is a conversation in which no user message is the prompt {shown(said)}",
                "make the prompt the text of a user message, or set "
                f"ignore_columns={shown(column)[1:-1]} to train on the conversations alone",
                column=path,
            )


def _without_head(
    head: list[Message], paths: list[str], sides: list[list[Message]]
) -> tuple[list[Message], list[list[Message]]]:
    """Cut the prompt from the beginning of the replies.

    Only the prompt, or only the replies, may begin with a system message: the prompt keeps it.
    """
    role = head[0]["role"]
    if role != "assistant" and all(side[0]["role"] == "assistant" for side in sides):
        return head, sides
    asked = head[1:] if role in _SYSTEM_ROLES else head
    system = sides[0][:1] if asked is head and sides[0][0]["role"] in _SYSTEM_ROLES else []
    beginnings = [head, system + head]
    if asked and asked[0]["role"] == "user":
        beginnings.append(asked)
    counts = [
        next((len(each) for each in beginnings if side[: len(each)] == each), 0) for side in sides
    ]
    if not any(counts):
        return head, sides
    if len(set(counts)) > 1 or any(len(side) == counts[0] for side in sides):
        repeated = paths[next(index for index, count in enumerate(counts) if count)]
        raise RowError(
            "prompt_repeated",
            f"{repeated} begins with the prompt, but another reply does not",
            "begin all replies with the prompt, or none",
            column=repeated,
        )
    is_longer = counts[0] > len(head)
    return system + head if is_longer else head, [side[counts[0] :] for side in sides]


def _common(sides: list[list[Message]]) -> int:
    """Return the number of common first messages; at least one message remains of each side."""
    first = sides[0]
    count = min(map(len, sides)) - 1
    for other in sides[1:]:
        for index in range(count):
            if first[index] != other[index]:
                count = index
                break
    return count


def _with_system(system: str, column: str, head: list[Message]) -> list[Message]:
    if not head or head[0]["role"] not in _SYSTEM_ROLES:
        message: dict[str, Any] = {"content": system, "role": "system"}
        return [message, *head]
    if head[0]["content"] == system:
        return head
    raise RowError(
        "two_values",
        "the system column and the system message of the conversation differ",
        f"keep one of them, or set ignore_columns={shown(column)[1:-1]}",
        column=column,
    )
