"""Rows of a stored dataset: the contract between the service, which writes them, and the trainer.

A dataset is stored as canonical JSONL: UTF-8, one object per line, keys sorted, no spaces, each
line ended by ``\\n``. Split it at ``\\n`` only: texts may hold U+2028 and U+0085, which
``str.splitlines`` takes for line ends.

All rows of a dataset have the same *row form*, ``DatasetSummary.row_form``.

A row of the form ``pairs``::

    {"chat_template_kwargs"?: {str: str | int | float | bool},
     "chosen": C, "id"?: str, "line": int, "margin"?: float, "prompt"?: C, "rejected": C,
     "slice"?: str, "tools"?: [object, …]}

A row of the form ``ranked``, which holds two or more replies to one prompt::

    {"chat_template_kwargs"?: …, "id"?: str, "line": int, "prompt"?: C,
     "replies": [{"rank": int, "reply": C, "score"?: float}, …],
     "slice"?: str, "tools"?: …}

- ``line`` is the position of the row in the upload, from 1. It is a line number for text files and
  a row number for Parquet, Arrow and JSON arrays. It is unique and increases from row to row.
- ``id`` is the upload's own label of the row. It is stored if a mapping names it, and for
  benchmarks whose rules need it.
- ``C`` is text (``str``) in every row of a dataset of the format ``text``, and a list of messages
  in every row of a dataset of the format ``conversational``.
- The model reads ``prompt + reply`` in both formats: texts are concatenated unchanged, with the
  white space of the upload, and lists of messages are concatenated.
- ``prompt`` may be absent. Text without a prompt is one text per reply. Conversations without a
  prompt begin with different messages; common first messages are stored as the prompt.
- ``margin`` is finite, may be negative, and is in all rows of a dataset or in none.
- ``replies`` are sorted by ``rank``, best first. Rank 1 is the best; equal ranks are ties. At least
  two replies have different ranks. ``score`` is the score of the upload, higher is better.
- ``tools`` is a non-empty list of tool descriptions for the ``tools`` argument of the chat
  template. Their keys keep the order of the upload. Only in conversational datasets.
- ``chat_template_kwargs`` are variables of the chat template. They never name a parameter of
  ``apply_chat_template`` itself. Only in conversational datasets.

A message::

    {"content": str | None, "name"?: str, "reasoning_content"?: str, "role": ROLE,
     "tool_call_id"?: str, "tool_calls"?: [object, …]}

- ``role`` is one of ``ROLES``. The last message of a reply is by the assistant.
- ``content`` is ``None`` only if there are ``tool_calls``. Text parts are joined with newlines.
- ``reasoning_content`` is the reasoning of an assistant message, which an upload may also call
  ``reasoning`` or ``thinking``. Templates read it under different names.
- ``tool_calls`` are objects ``{"type": "function", "id"?: str, "function": {"name": str,
  "arguments": object | str}}``. Arguments that the upload has as JSON text are objects here; text
  that is not a JSON object stays text.
- ``name`` and ``tool_call_id`` belong to messages of the role ``tool``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Literal

RowForm = Literal["pairs", "ranked"]
ROLES = ("system", "developer", "user", "assistant", "tool")

#: Parameters of ``apply_chat_template`` in transformers 5.23. A row must not set them: they are
#: arguments of the renderer, not variables of a template.
RESERVED_TEMPLATE_VARIABLES = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation",
        "documents", "kwargs", "max_length", "messages", "padding", "return_assistant_tokens_mask",
        "return_dict", "return_tensors", "sanitize_control_tokens", "self", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip


def ranked_pairs(row: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the training pairs of a ranked row as indices into ``replies``, the better one first.

    Replies with equal ranks or equal texts form no pair. The order of the pairs is fixed, so a
    seeded choice among them is the same on every machine.
    """
    for (better, one), (worse, other) in combinations(enumerate(row["replies"]), 2):
        if one["rank"] < other["rank"] and one["reply"] != other["reply"]:
            yield better, worse


def ranked_pair_count(row: Mapping[str, Any]) -> int:
    """Return the number of pairs that ``ranked_pairs`` yields."""
    replies = [(each["rank"], each["reply"]) for each in row["replies"]]
    count = 0
    for index, (rank, reply) in enumerate(replies):
        for other_rank, other in replies[index + 1 :]:
            if rank < other_rank and reply != other:
                count += 1
    return count


def draw_pairs(pair_count: int, count: int, seed: str) -> list[int]:
    """Draw at most ``count`` of a row's ``pair_count`` pairs; return their sorted indices.

    The same seed gives the same indices in any process.
    """
    if pair_count <= count:
        return list(range(pair_count))
    return sorted(random.Random(seed).sample(range(pair_count), count))  # noqa: S311


def replies_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the replies of a row: chosen and rejected, or the ranked ones, best first."""
    if "replies" in row:
        return [each["reply"] for each in row["replies"]]
    return [row["chosen"], row["rejected"]]


def as_pair(row: Mapping[str, Any], better: int, worse: int) -> dict[str, Any]:
    """Return two replies of a ranked row as a row of the form ``pairs``."""
    pair = {key: value for key, value in row.items() if key != "replies"}
    replies = row["replies"]
    return pair | {"chosen": replies[better]["reply"], "rejected": replies[worse]["reply"]}


def as_conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its texts as chat turns; rows of messages are returned unchanged.

    White space around a text is stripped: it only separates prompt and reply.
    """
    if not isinstance(replies_of(row)[0], str):
        return row
    turns = dict(row)
    if "prompt" in row:
        turns["prompt"] = [{"content": row["prompt"].strip(), "role": "user"}]
    if "replies" in row:
        turns["replies"] = [each | {"reply": _turn(each["reply"])} for each in row["replies"]]
    else:
        turns |= {side: _turn(row[side]) for side in ("chosen", "rejected")}
    return turns


def _turn(reply: str) -> list[dict[str, Any]]:
    return [{"content": reply.strip(), "role": "assistant"}]
