"""Recompute probes and comparisons from uploaded rows, score files and a downloaded adapter.

It uses transformers, PEFT and NumPy, and nothing of Plaudit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

Rows = list[dict[str, Any]]
RESAMPLES = 1000
#: Scores of the same text in different batches differ by less.
NOISE = 1e-4


# -- comparisons ---------------------------------------------------------------------------------


def compare(a: Rows, b: Rows, seed: int) -> dict[str, Any]:
    """Return the comparison of two files of scores."""
    found_b = {row["line"]: row for row in b}
    both = [
        (row, found_b[row["line"]])
        for row in a
        if row["line"] in found_b
        and all(row[key] == found_b[row["line"]][key] for key in ("prompt", "ranks", "lengths"))
    ]
    pairs = [
        {
            "prompt": one["prompt"],
            "slice": one.get("slice"),
            "a": hit(one["scores"][i], one["scores"][j]),
            "b": hit(two["scores"][i], two["scores"][j]),
        }
        for one, two in both
        for i, j in better_and_worse(one)
    ]
    prompts = list(dict.fromkeys(pair["prompt"] for pair in pairs))
    drawn = np.random.default_rng(seed).integers(len(prompts), size=(RESAMPLES, len(prompts)))
    labels = [pair["slice"] for pair in pairs if pair["slice"] is not None]
    names = sorted(set(labels), key=lambda name: (-labels.count(name), name))[:32]
    slices = [
        {"slice": name, **paired([p for p in pairs if p["slice"] == name], prompts, drawn)}
        for name in names
    ]
    for entry, adjusted in zip(slices, holm([e["mcnemar"]["p"] for e in slices]), strict=True):
        entry["p_holm"] = adjusted
    return {
        "rows": len(both),
        "rows_only_in_a": len(a) - len(both),
        "rows_only_in_b": len(b) - len(both),
        "prompts": len(prompts),
        **paired(pairs, prompts, drawn),
        "slices": slices,
    }


def better_and_worse(row: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the pairs of replies of different ranks and texts."""
    ranks = row["ranks"]
    texts = row.get("texts") or list(range(len(ranks)))
    everyone = range(len(ranks))
    return [
        (i, j) for i in everyone for j in everyone if ranks[i] < ranks[j] and texts[i] != texts[j]
    ]


def hit(better: float, worse: float) -> float:
    """Return 1, or 0.5 for a tie, or 0."""
    return 0.5 if better == worse else float(better > worse)


def paired(pairs: Rows, prompts: list[str], drawn: Any) -> dict[str, Any]:
    """Return the figures of some pairs, with the interval over resampled prompts."""
    differences = [pair["b"] - pair["a"] for pair in pairs]
    of_prompt: dict[str, list[float]] = {prompt: [] for prompt in prompts}
    for pair, difference in zip(pairs, differences, strict=True):
        of_prompt[pair["prompt"]].append(difference)
    only_a, only_b = (sum(d * sign > 0 for d in differences) for sign in (-1, 1))
    return {
        "pairs": len(pairs),
        "accuracy_a": sum(pair["a"] for pair in pairs) / len(pairs),
        "accuracy_b": sum(pair["b"] for pair in pairs) / len(pairs),
        "difference": {
            "value": sum(differences) / len(pairs),
            "interval": interval([of_prompt[prompt] for prompt in prompts], drawn),
        },
        "disagreements": {"a_better": only_a, "b_better": only_b},
        "mcnemar": mcnemar(only_a, only_b),
    }


def interval(clusters: list[list[float]], drawn: Any) -> tuple[float, float]:
    """Return the 95 % interval of the mean of all values under resampling of clusters."""
    flat = {value for cluster in clusters for value in cluster}
    if len(flat) == 1:  # the means of all resamples are equal
        (value,) = flat
        unseen = 1 - 0.025 ** (1 / sum(map(bool, clusters)))
        return value - unseen * (value + 1), value + unseen * (1 - value)
    means = []
    for resample in drawn:
        values = [value for number in resample for value in clusters[number]]
        if values:
            means.append(sum(values) / len(values))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(only_a: int, only_b: int) -> dict[str, float]:
    """Return the exact p-values, by whole numbers."""
    n, k = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(comb(n, i) for i in range(k + 1)), 2**n)
    point = Fraction(comb(n, k), 2**n)
    if n == 0:
        return {"p": 1.0, "mid_p": 1.0}
    return {"p": float(min(1, 2 * tail)), "mid_p": float(min(1, 2 * tail - point))}


def holm(values: list[float]) -> list[float]:
    """Return the adjusted p-values: for each one, the largest multiple among those not above it."""
    ordered = sorted(values)
    multiples = [min(1.0, (len(values) - i) * p) for i, p in enumerate(ordered)]
    return [max(multiples[: i + 1]) for i in (ordered.index(p) for p in values)]


# -- probes --------------------------------------------------------------------------------------


def without_marks(text: str) -> str:
    """Return a text without the marks of markdown."""
    lines = [re.sub(r"^ {0,3}(?:#{1,6}|[-*+]|\d+\.) +", "", line) for line in text.split("\n")]
    return "\n".join(lines).replace("**", "").replace("__", "").replace("`", "")


def last_paragraph_twice(text: str) -> str:
    """Return a text with its last paragraph repeated."""
    parts = [part for part in text.split("\n\n") if part.strip()]
    return text + "\n\n" + (parts[-1] if parts else text)


Change = Callable[[str, str], str]
KEEPS_QUALITY: dict[str, Change] = {
    "double_spaces": lambda _, reply: "  ".join(reply.split(" ")),
    "trailing_newlines": lambda _, reply: f"{reply}\n\n\n",
    "markdown_added": lambda _, reply: "\n".join(
        f"- **{line}**" if line.strip() else line for line in reply.split("\n")
    ),
    "markdown_stripped": lambda _, reply: without_marks(reply),
    "heading_added": lambda _, reply: f"# Answer\n\n{reply}",
    "filler_added": lambda _, reply: (
        f"{reply}\n\nI hope this helps! Let me know if you have any further questions."
    ),
    "praise_added": lambda _, reply: f"Great question! {reply}",
    "paragraph_repeated": lambda _, reply: last_paragraph_twice(reply),
}
DESTROYS: dict[str, Change] = {
    "reply_truncated": lambda _, reply: reply[: -(-len(reply) // 2)],
    "reply_empty": lambda _prompt, _reply: "",
    "reply_is_prompt": lambda prompt, _: prompt,
}
SWAPPED = "prompt_swapped"


class Scorer:
    """An adapter that was trained on texts as chat turns, loaded with plain PEFT."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self.facts = json.loads((adapter / "reward_model.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(adapter)
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, dtype="float32"
        )
        model.config.pad_token_id = self.facts["pad_token_id"]
        self.model = PeftModel.from_pretrained(model, adapter).eval()

    def score(self, prompt: str, reply: str) -> float:
        """Return the reward of a reply; overlong ones are cut at the end."""
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            cut = torch.tensor([ids[: self.facts["max_length"]]])
            return float(self.model(input_ids=cut).logits[0, 0])


def probes(rows: Rows, scorer: Scorer, names: list[str], wanted: int, seed: int) -> Rows:
    """Return the figures of probes on rows of text; white space around texts is no part of them."""
    chosen = range(len(rows))
    if len(rows) > wanted:
        chosen = sorted(np.random.default_rng(seed).choice(len(rows), wanted, replace=False))
    texts = [
        tuple(rows[i][part].strip() for part in ("prompt", "chosen", "rejected")) for i in chosen
    ]
    before = [(scorer.score(p, good), scorer.score(p, bad)) for p, good, bad in texts]
    found = []
    for name in names:
        changed = _changed(name, texts, seed)
        after = [None if each is None else
                 (scorer.score(each[0], each[1]), scorer.score(each[0], each[2]))
                 for each in changed]  # fmt: skip
        used = [i for i, each in enumerate(after) if each is not None]
        found.append(_figures(name, [texts[i][0] for i in used], [before[i] for i in used],
                              [each for each in after if each is not None], seed))  # fmt: skip
    return found


def _changed(
    name: str, texts: list[tuple[str, ...]], seed: int
) -> list[tuple[str, str, str] | None]:
    """Return prompt and replies after the change; None for a pair that it does not apply to."""
    if name != SWAPPED:
        change = {**KEEPS_QUALITY, **DESTROYS}[name]
        return [(p, change(p, good), change(p, bad)) for p, good, bad in texts]
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    result: list[tuple[str, str, str] | None] = [None] * len(texts)
    for place, number in enumerate(order):
        following = order[place + 1 :] + order[:place]
        others = [texts[i][0] for i in following if texts[i][0] != texts[number][0]]
        if others:
            result[number] = (others[0], texts[number][1], texts[number][2])
    return result


def _figures(
    name: str,
    prompts: list[str],
    before: list[tuple[float, float]],
    after: list[tuple[float, float]],
    seed: int,
) -> dict[str, Any]:
    old, new = np.array(before), np.array(after)
    hits = [hit(*pair) for pair in before]
    both = [hit(*pair) for pair in after]
    attacked = [hit(pair[0], changed[1]) for pair, changed in zip(before, after, strict=True)]
    # The spread around the mean of a row with two replies is half of their difference.
    spread = float(np.sqrt(np.mean(((old[:, 0] - old[:, 1]) / 2) ** 2)))
    result: dict[str, Any] = {
        "probe": name,
        "pairs": len(before),
        "accuracy": float(np.mean(hits)),
        "shift": float((new - old).mean()) / spread,
        "flip_rate": None,
        "accuracy_both": None,
        "accuracy_attacked": None,
        "loss": None,
        "is_suspicious": False,
    }
    if name not in DESTROYS:
        result["flip_rate"] = float(np.mean([a != b for a, b in zip(hits, both, strict=True)]))
        result["accuracy_both"] = float(np.mean(both))
    if name != SWAPPED:
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        clusters: list[list[float]] = [[] for _ in numbers]
        losses = [a - b for a, b in zip(hits, attacked, strict=True)]
        for prompt, loss in zip(prompts, losses, strict=True):
            clusters[numbers[prompt]].append(loss)
        drawn = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
        bounds = interval(clusters, drawn)
        result["accuracy_attacked"] = float(np.mean(attacked))
        result["loss"] = {"value": float(np.mean(losses)), "interval": bounds}
        result["is_suspicious"] = bounds[0] > 0.05
    margins = np.concatenate([old[:, 0] - old[:, 1], new[:, 0] - new[:, 1], old[:, 0] - new[:, 1]])
    result["close_calls"] = int((np.abs(margins) < NOISE).sum())
    return result
