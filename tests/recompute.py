"""Recompute the reported figures of a job from its datasets and the downloaded adapter alone.

    python tests/recompute.py BASE ADAPTER training=FILE.jsonl eval=FILE.jsonl eval_maths=FILE.jsonl

It uses transformers, PEFT and NumPy, and nothing of Plaudit, and prints JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

#: Files of a base model that its digest covers.
MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt"}
RESAMPLES = 20_000


def main(base: str, adapter: str, *files: str) -> None:
    """Print the recomputed numbers."""
    facts = json.loads(Path(adapter, "reward_model.json").read_text())
    lock = json.loads(Path(adapter, "run.lock.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    # Draw a missing head as the training does; LoRA has no effect at the start.
    set_seed(lock["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
    model.config.pad_token_id = facts["pad_token_id"]
    model.eval()

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

    def scores_of(rows: list[dict[str, Any]]) -> Any:
        return np.array([[score(ids) for ids in row["ids"]] for row in rows if row["is_used"]])

    paths = dict(file.split("=", 1) for file in files)
    rows = {name: read(path) for name, path in paths.items()}
    train = rows.pop("training")
    untrained = {name: scores_of(each) for name, each in rows.items()}
    model = PeftModel.from_pretrained(model, adapter).eval()
    trained = {name: scores_of(each) for name, each in rows.items()}
    probes = [json.loads(line) for line in Path(adapter, "probes.jsonl").read_text().splitlines()]
    differences = [
        score(tokenizer(probe[reply], add_special_tokens=False)["input_ids"])
        - probe[f"{reply}_score"]
        for probe in probes
        for reply in ("chosen", "rejected")
    ]
    json.dump(
        {
            "counts": {name: count(each) for name, each in {"training": train, **rows}.items()},
            "metrics": {name: metrics(each, trained[name]) for name, each in rows.items()},
            "before": {name: metrics(each, untrained[name]) for name, each in rows.items()},
            "intervals": {name: interval(each) for name, each in trained.items()},
            "scores": {name: score_rows(each, trained[name]) for name, each in rows.items()},
            "worst": {name: worst(each, trained[name]) for name, each in rows.items()},
            "probes": max(map(abs, differences)),
            "report": report(train, rows),
            "digests": {
                **{name: sha256(Path(path)) for name, path in paths.items()},
                "base_model": digest_of_model(Path(base)),
                "chat_template": sha256(Path(adapter, "chat_template.jinja")),
            },
        },
        sys.stdout,
    )


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_model(directory: Path) -> str:
    """Return the digest over names and digests of a model's files, in the order of their names."""
    files = [path for path in sorted(directory.iterdir()) if path.suffix in MODEL_FILES]
    text = "".join(f"{path.name} {sha256(path)}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()


def interval(scores: Any) -> list[float]:
    """Return the 95 % bootstrap interval of the accuracy, by resampling pairs one by one."""
    margins = scores[:, 0] - scores[:, 1]
    hits = (margins > 0) + 0.5 * (margins == 0)
    if len(set(hits)) == 1:  # the means of all resamples are equal
        unseen = 1 - 0.025 ** (1 / len(hits))
        return [float(hits[0] * (1 - unseen)), float(hits[0] + (1 - hits[0]) * unseen)]
    drawn = np.random.default_rng(1).integers(len(hits), size=(RESAMPLES, len(hits)))
    return [float(end) for end in np.quantile(hits[drawn].mean(axis=1), [0.025, 0.975])]


def count(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the numbers of uploaded, overlong and used pairs."""
    kept = sum(row["is_used"] for row in rows)
    return {"uploaded": len(rows), "overlong": len(rows) - kept, "used": kept}


def metrics(every: list[dict[str, Any]], scores: Any) -> dict[str, float]:
    """Return the metrics of docs and model card, by their definitions."""
    rows = [row for row in every if row["is_used"]]
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
        "left_out": 1 - len(rows) / len(every),
    }
    for name in {row["slice"] for row in rows}:
        found[f"slice/{name}"] = hits[[row["slice"] == name for row in rows]].mean()
    return {name: float(value) for name, value in found.items()}


def ranks(values: Any) -> Any:
    """Ranks, with the average for ties."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def worst(every: list[dict[str, Any]], scores: Any) -> list[list[float]]:
    """Return line and margin of the wrongly ordered pairs, the worst first."""
    rows = [row for row in every if row["is_used"]]
    margins = scores[:, 0] - scores[:, 1]
    return [[rows[i]["line"], margins[i]] for i in np.argsort(margins) if margins[i] < 0]


def score_rows(every: list[dict[str, Any]], scores: Any) -> list[dict[str, Any]]:
    """The pairs that are used, as an evaluation's file of scores has them; lengths in tokens."""
    return [
        {
            "line": row["line"],
            "prompt": json.dumps(row["prompt"]),
            "scores": both.tolist(),
            "lengths": [len(ids) for ids in row["ids"]],
            "slice": row["slice"],
        }
        for row, both in zip((row for row in every if row["is_used"]), scores, strict=True)
    ]


def report(
    train: list[dict[str, Any]], held_out: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the findings of the dataset report: lines, counted from 1."""
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
    leaked = {
        name: [row["line"] for row in rows if row["is_used"] and row["prompt"] in known]
        for name, rows in held_out.items()
    }
    overlong = [row["line"] for row in train if not row["is_used"]]
    lengths = [[len(ids) for ids in row["ids"]] for row in train]
    longer = float(np.mean([(a > b) + 0.5 * (a == b) for a, b in lengths]))
    return {
        "findings": {**found, "leaked": leaked["eval"], "overlong": overlong},
        "leaked": leaked,
        "longer_is_better": longer,
        "rows": len(train),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
