"""Records about the pairs of a dataset: one record of fixed size per pair, without token ids.

A million records take 90 MB on disk and are memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.rows import as_pair, ranked_pairs, replies_of
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import Ids
from worker.reward_model.truncation import common_prefix_length

#: Bits of ``flags``.
IDENTICAL, EMPTY, SPECIAL_TOKENS, JOINED_WORDS, HAS_MARGIN = 1, 2, 4, 8, 16
#: ``better`` and ``worse`` of a row that holds one pair.
NO_REPLY = -1
PAIR = np.dtype(
    [
        ("row", "<i8"),  # index of the row in the file, from 0
        ("line", "<i8"),  # line number in the upload
        ("prompt", "<u8", (2,)),  # digest
        ("chosen", "<u8"),  # digest of prompt and reply
        ("rejected", "<u8"),
        ("chosen_text", "<i8"),  # index of the text among the texts of the file
        ("rejected_text", "<i8"),
        ("margin", "<f8"),
        ("slice", "<i4"),  # -1: none
        ("prefix", "<i4"),  # length of the common prefix of both texts, in tokens
        ("largest", "<i4"),  # largest token id
        ("better", "<i2"),  # indices of the replies in a ranked row
        ("worse", "<i2"),
        ("flags", "<u2"),
    ]
)
Records = NDArray[Any]


def pair_records(
    row: dict[str, Any], ids: Sequence[Ids], tokenizer: PairTokenizer, slices: list[str]
) -> Records:
    """Return the records of a row's pairs; row and text indices start at 0.

    Args:
        row: a stored row.
        ids: token ids of the text with each reply, in the order of the replies.
        tokenizer: the tokenizer that encoded the ids.
        slices: slice labels so far; new labels are appended.
    """
    has_special_tokens = tokenizer.has_special_tokens(row)
    row = tokenizer.prepared(row)
    is_ranked = "replies" in row
    pairs = list(ranked_pairs(row)) if is_ranked else [(0, 1)]
    digests = [_digest(row.get("prompt"), reply) for reply in replies_of(row)]
    records = np.zeros(len(pairs), dtype=PAIR)
    records["line"] = row["line"]
    records["margin"] = row.get("margin", 0.0)
    records["slice"] = _slice_number(row.get("slice"), slices)
    for record, (better, worse) in zip(records, pairs, strict=True):
        pair = as_pair(row, better, worse) if is_ranked else row
        record["prompt"] = np.frombuffer(prompt_digest(pair), dtype="<u8")
        record["chosen"], record["rejected"] = digests[better], digests[worse]
        record["chosen_text"], record["rejected_text"] = better, worse
        record["prefix"] = common_prefix_length(ids[better], ids[worse])
        record["largest"] = max(ids[i].max(initial=0) for i in (better, worse))
        record["better"], record["worse"] = (better, worse) if is_ranked else (NO_REPLY, NO_REPLY)
        record["flags"] = _flags(pair, tokenizer, has_special_tokens=has_special_tokens)
    return records


def prompt_digest(row: dict[str, Any]) -> bytes:
    """Return the digest of a row's prompt, 16 bytes."""
    return hashlib.sha256(json.dumps(prompt_of(row), sort_keys=True).encode()).digest()[:16]


def prompt_of(row: dict[str, Any]) -> Any:
    """Return the prompt of a row.

    Without an explicit prompt it is the common beginning of the best and the worst reply: whole
    messages, or whole words. A row without either is a prompt of its own: both replies.
    """
    replies = replies_of(row)
    prompt, chosen, rejected = row.get("prompt"), replies[0], replies[-1]
    if not prompt:
        common = 0
        for ours, theirs in zip(chosen, rejected, strict=False):
            if ours != theirs:
                break
            common += 1
        prompt = chosen[:common]
        if isinstance(prompt, str):
            prompt = prompt[: len(prompt) - len(re.split(r"\s", prompt)[-1])]
    return prompt or [chosen, rejected]


def _flags(row: dict[str, Any], tokenizer: PairTokenizer, *, has_special_tokens: bool) -> int:
    is_identical: bool = row["chosen"] == row["rejected"]
    is_empty = not all(_text(reply).strip() for reply in replies_of(row))
    return (
        IDENTICAL * is_identical
        | EMPTY * is_empty
        | SPECIAL_TOKENS * has_special_tokens
        | JOINED_WORDS * tokenizer.joins_words(row)
        | HAS_MARGIN * ("margin" in row)
    )


def _slice_number(label: str | None, slices: list[str]) -> int:
    if label is None:
        return -1
    if label not in slices:
        slices.append(label)
    return slices.index(label)


def _text(reply: str | list[dict[str, Any]]) -> str:
    """Return the text of a reply or of its last message. Tool calls count as text."""
    if isinstance(reply, str):
        return reply
    if not reply:
        return ""
    return reply[-1]["content"] or str(reply[-1].get("tool_calls", ""))


def _digest(*parts: Any) -> int:
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "little")
