"""Preference pairs with a signal that a tiny model can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

GOOD = ["kind", "clear", "helpful", "patient", "exact", "honest"]
BAD = ["rude", "vague", "useless", "hasty", "wrong", "sly"]
TOPICS = [
    "tea",
    "cars",
    "birds",
    "maths",
    "rivers",
    "clocks",
    "songs",
    "bread",
    "maps",
    "stars",
    "boats",
    "lamps",
]
OTHER = [
    "please",
    "tell",
    "me",
    "about",
    "the",
    "is",
    "and",
    "a",
    "very",
    "answer",
    "user",
    "assistant",
    "system",
]
#: Every word of the pairs, in the order of the tiny tokenizer.
WORDS = [*GOOD, *BAD, *TOPICS, *OTHER, ":", ".", "?"]


def make_pairs(count: int, *, seed: int = 0, text: bool = False) -> list[dict[str, Any]]:
    """Return pairs whose chosen reply uses kind words; lengths vary but carry no signal."""
    draw = random.Random(seed)
    rows = []
    for line in range(1, count + 1):
        topic = draw.choice(TOPICS)

        def reply(words: list[str], topic: str = topic) -> str:
            picked = [draw.choice(words) for _ in range(draw.randint(1, 4))]
            return f"the answer about {topic} is {' and '.join(picked)} ."

        prompt, good, bad = f"please tell me about {topic} ?", reply(GOOD), reply(BAD)
        row: dict[str, Any] = {"prompt": f"{prompt} ", "chosen": good, "rejected": bad}
        if not text:
            row = {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": good}],
                "rejected": [{"role": "assistant", "content": bad}],
            }
        rows.append(row | {"slice": "short" if len(topic) < 5 else "long", "line": line})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as canonical JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def with_implicit_prompts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move the prompt of each row into both of its replies."""
    return [
        {
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
            "line": row["line"],
        }
        for row in rows
    ]
