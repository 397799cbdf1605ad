"""Recompute what a job reports, from the uploaded files and the downloaded adapter alone.

    python tests/recompute.py TRAIN.jsonl EVAL.jsonl BASE ADAPTER

It uses transformers, PEFT and NumPy, and nothing of Plaudit, and prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(train_file: str, eval_file: str, base: str, adapter: str) -> None:
    """Print the recomputed numbers."""
    facts = json.loads(Path(adapter, "reward_model.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
    model.config.pad_token_id = facts["pad_token_id"]
    model = PeftModel.from_pretrained(model, adapter).eval()

    def ids_of(row: dict[str, Any], reply: str) -> list[int]:
        text = tokenizer.apply_chat_template(row["prompt"] + row[reply], tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def score(ids: list[int]) -> float:
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([ids])).logits[0, 0])

    def read(file: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
        for line, row in enumerate(rows, 1):
            row["line"] = line
            row["ids"] = [ids_of(row, reply) for reply in ("chosen", "rejected")]
            row["is_used"] = max(map(len, row["ids"])) <= facts["max_length"]
        return rows

    train, held_out = read(train_file), read(eval_file)
    used = [row for row in held_out if row["is_used"]]
    scores = np.array([[score(ids) for ids in row["ids"]] for row in used])
    probes = [json.loads(line) for line in Path(adapter, "probes.jsonl").read_text().splitlines()]
    differences = [
        score(tokenizer(probe[reply], add_special_tokens=False)["input_ids"])
        - probe[f"{reply}_score"]
        for probe in probes
        for reply in ("chosen", "rejected")
    ]
    json.dump(
        {
            "counts": {"train": count(train), "eval": count(held_out)},
            "metrics": {**metrics(used, scores), "left_out": 1 - len(used) / len(held_out)},
            "worst": worst(used, scores),
            "probes": max(map(abs, differences)),
            "report": report(train, held_out),
        },
        sys.stdout,
    )


def count(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Pairs that were uploaded, that are too long and that are used."""
    kept = sum(row["is_used"] for row in rows)
    return {"uploaded": len(rows), "overlong": len(rows) - kept, "used": kept}


def metrics(rows: list[dict[str, Any]], scores: Any) -> dict[str, float]:
    """The metrics of docs and model card, by their definitions."""
    margins = scores[:, 0] - scores[:, 1]
    hits = (margins > 0) + 0.5 * (margins == 0)
    right = 1 / (1 + np.exp(-margins))
    lengths = np.array([[len(ids) for ids in row["ids"]] for row in rows])
    shorter = lengths[:, 0] < lengths[:, 1]
    confidence = np.maximum(right, 1 - right)
    error = 0.0
    for low in np.arange(0.5, 1.0, 0.05):
        inside = (confidence >= low) & (confidence < low + 0.05 + (low > 0.94) * 1e-9)
        if inside.any():
            error += abs(hits[inside].mean() - confidence[inside].mean()) * inside.mean()
    found = {
        "accuracy": hits.mean(),
        "loss": -np.log(right).mean(),
        "margin_mean": margins.mean(),
        "margin_std": margins.std(),
        "reward_mean": scores.mean(),
        "reward_std": scores.std(),
        "ece": error,
        "brier": ((1 - right) ** 2).mean(),
        "length_spearman": np.corrcoef(ranks(scores.ravel()), ranks(lengths.ravel()))[0, 1],
        "length_baseline": np.mean(
            (lengths[:, 0] > lengths[:, 1]) + 0.5 * (lengths[:, 0] == lengths[:, 1])
        ),
        "accuracy_when_shorter": hits[shorter].mean(),
        "pairs": len(rows),
    }
    for name in {row["slice"] for row in rows}:
        found[f"slice/{name}"] = hits[[row["slice"] == name for row in rows]].mean()
    return {name: float(value) for name, value in found.items()}


def ranks(values: Any) -> Any:
    """Ranks, with the average for ties."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def worst(rows: list[dict[str, Any]], scores: Any) -> list[list[float]]:
    """Line and margin of the wrongly ordered pairs, the worst first."""
    margins = scores[:, 0] - scores[:, 1]
    return [[rows[i]["line"], margins[i]] for i in np.argsort(margins) if margins[i] < 0]


def report(train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> dict[str, Any]:
    """Findings of the dataset report: lines, counted from 1."""
    seen: list[tuple[Any, Any, Any]] = []
    found: dict[str, list[int]] = {"duplicates": [], "contradictions": []}
    for row in train:
        pair = (row["prompt"], row["chosen"], row["rejected"])
        if pair in seen:
            found["duplicates"].append(row["line"])
        if (pair[0], pair[2], pair[1]) in seen:
            found["contradictions"].append(row["line"])
        seen.append(pair)
    known = [row["prompt"] for row in train if row["is_used"]]
    leaked = [row["line"] for row in held_out if row["is_used"] and row["prompt"] in known]
    overlong = [row["line"] for row in train if not row["is_used"]]
    lengths = [[len(ids) for ids in row["ids"]] for row in train]
    longer = float(np.mean([(a > b) + 0.5 * (a == b) for a, b in lengths]))
    return {
        "findings": {**found, "leaked": leaked, "overlong": overlong},
        "longer_is_better": longer,
        "rows": len(train),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
