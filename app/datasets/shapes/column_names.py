"""Words in the names of columns that tell what a column may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Words in column names. The column with the earliest word is suggested for a part.
WORDS: Mapping[str, tuple[str, ...]] = {
    "rejected": ("rejected", "reject", "dispreferred", "nonpreferred", "worse", "worst", "bad",
                 "loser", "losing", "lose", "negative", "neg", "incorrect", "wrong", "k", "l",
                 "original", "initial"),
    "chosen": ("chosen", "choose", "preferred", "better", "best", "good", "winner", "winning",
               "win", "positive", "pos", "accepted", "accept", "correct", "j", "w", "edited",
               "revised", "improved"),
    "prompt": ("prompt", "question", "query", "instruction", "instructions", "input", "inputs",
               "context", "post", "problem", "request", "user", "conversation", "conversations",
               "messages", "history", "title", "task", "anchor", "text", "source"),
    "system": ("system",),
}  # fmt: skip
#: The same in Chinese, whose words have no spaces between them.
_CHINESE: Mapping[str, str] = {
    "rejected": "拒差劣坏负错", "chosen": "选好优正佳", "prompt": "问题提示指令输入",
    "system": "系统",
}  # fmt: skip
_ENDS = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"))


def is_prompt_like(name: str) -> bool:
    """Return whether the name of a column suggests that it holds the prompt."""
    return rank(name, "prompt") < len(WORDS["prompt"]) - 2  # neither text nor source


def rank(name: str, part: str) -> int:
    """Return the index of the first word of a part in a name, or the number of words if none."""
    if not name.isascii() and any(sign in name for sign in _CHINESE[part]):
        return 0
    words = words_in(name)
    return next((i for i, word in enumerate(WORDS[part]) if word in words), len(WORDS[part]))


def words_in(name: str) -> set[str]:
    """Return the words of a name, in lower case."""
    return set(re.split(r"[^a-z0-9]+", name.lower().replace("non_", "non")))


def twins(columns: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs of columns whose names differ in a and b, 0 and 1, 1 and 2."""
    known = {name.lower(): name for name in columns}
    found = []
    for name in columns:
        for one, other in _ENDS:
            border = "" if one.isdigit() else "(?<![a-z0-9])"
            twin = re.sub(rf"{border}{one}(?![a-z0-9])", other, name.lower())
            if twin != name.lower() and twin in known:
                found.append((name, known[twin]))
    return found
