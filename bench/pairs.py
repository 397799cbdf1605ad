"""Preference pairs as token ids: random ones with realistic lengths, or texts from a file."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer

RESERVED_IDS = 4
#: Random ids are below this value for every vocabulary.
USED_IDS = 32_000
#: Mean tokens of a pair's common prefix, and of each reply.
MEANS = {"multi_turn": (400, 70), "single_turn": (80, 250)}
Row = dict[str, list[int]]


def draw_pairs(kind: str, count: int, max_length: int, seed: int) -> list[Row]:
    """Return random pairs with log-normal lengths of at most ``max_length`` tokens.

    Multi-turn pairs share a dialogue of about 400 tokens and differ in a short last reply.
    Single-turn pairs share a short question and differ in replies of about 250 tokens.
    """
    draw = random.Random(f"{kind} {seed}")
    prompt_mean, reply_mean = MEANS[kind]

    def length(mean: int, longest: int) -> int:
        return max(8, min(longest, round(draw.lognormvariate(math.log(mean), 0.6))))

    def ids(count: int) -> list[int]:
        return [draw.randrange(RESERVED_IDS, USED_IDS) for _ in range(count)]

    rows = []
    for _ in range(count):
        prompt = ids(length(prompt_mean, max_length * 3 // 4))
        room = max_length - len(prompt) - 1
        chosen, rejected = (prompt + ids(length(reply_mean, room)) + [1] for _ in range(2))
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return rows


def read_pairs(path: Path, count: int, max_length: int) -> list[Row]:
    """Return the first text pairs of a file that fit, with a byte-level tokenizer trained on it."""
    pairs = [json.loads(line) for line in path.read_text().splitlines() if line]
    texts = [(_text(pair, "chosen"), _text(pair, "rejected")) for pair in pairs]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator((t for pair in texts for t in pair), vocab_size=16_000)
    rows = []
    for chosen, rejected in texts:
        c, r = (
            [i + RESERVED_IDS for i in tokenizer.encode(text).ids] + [1]
            for text in (chosen, rejected)
        )
        if max(len(c), len(r)) <= max_length:
            rows.append({"chosen_ids": c, "rejected_ids": r})
    return rows[:count]


def _text(pair: dict[str, Any], side: str) -> str:
    def flat(value: Any) -> str:
        if isinstance(value, str):
            return value
        turns = [value] if isinstance(value, dict) else value
        return "\n".join(
            f"{turn.get('role', turn.get('from'))}: {turn.get('content', turn.get('value'))}"
            for turn in turns
        )

    prompt = pair.get("prompt", pair.get("conversations", ""))
    return flat(prompt) + "\n" + flat(pair[side])


def describe(rows: list[Row]) -> str:
    """Describe the number of pairs, their length and their common prefixes."""
    prefixes = []
    for row in rows:
        pairs = zip(row["chosen_ids"], row["rejected_ids"], strict=False)
        prefixes.append(next((i for i, (c, r) in enumerate(pairs) if c != r), 0))
    lengths = [len(row[k]) for row in rows for k in ("chosen_ids", "rejected_ids")]
    return (
        f"{len(rows)} pairs, mean sequence {statistics.mean(lengths):.0f} tokens with a common "
        f"prefix of {statistics.mean(prefixes):.0f}"
    )
