"""Compare scoring with the resident model with plain PEFT, one text at a time.

A random Qwen2 of 31 M parameters and eight adapters (r 16, all linear layers, a head each), in
float32 on one CPU thread. Both arms score the same token ids, and their rewards are compared. The
figure is the CPU time of plain PEFT divided by that of the resident model, and the best of several
interleaved rounds. The column HTTP has the same figure for requests to a scorer, one request per
group; it has no minimum.

    make bench-score
    make bench-score BENCH="--rounds 1"
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.score_http import HttpScorer
from worker.reward_model.packaged_adapter import AdapterWeights
from worker.reward_model.resident_model import ReplyGroup, ResidentModel

ADAPTERS = [f"ad_{i}" for i in range(8)]
VOCABULARY, PAD = 32_000, 0
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "num_labels": 1,
}
SUMMARY = {
    "dtype": "float32",
    "quantization": "none",
    "head_modules": ["score"],
    "pad_token_id": PAD,
}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Workload:
    """Groups of replies, and the minimum ratio of CPU times."""

    name: str
    bar: float
    make: Callable[[random.Random], list[ReplyGroup]]


def ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(2, VOCABULARY) for _ in range(count)]


def best_of_8(prompt: int, prompts: int) -> Callable[[random.Random], list[ReplyGroup]]:
    def make(draw: random.Random) -> list[ReplyGroup]:
        groups = []
        for _ in range(prompts):
            start = ids(draw, prompt)
            replies = [start + ids(draw, draw.randint(64, 192)) for _ in range(8)]
            groups.append(ReplyGroup(ADAPTERS[0], replies))
        return groups

    return make


def mixed(count: int, shortest: int, longest: int) -> Callable[[random.Random], list[ReplyGroup]]:
    def make(draw: random.Random) -> list[ReplyGroup]:
        return [
            ReplyGroup(ADAPTERS[i % 8], [ids(draw, draw.randint(shortest, longest))])
            for i in range(count)
        ]

    return make


WORKLOADS = (
    Workload("best of 8, prompt 256, replies 64-192", 2.2, best_of_8(256, 2)),
    Workload("best of 8, prompt 768, replies 64-192", 3.5, best_of_8(768, 1)),
    Workload("mixed short: 32 of 20-80 tokens, 8 adapters", 2.0, mixed(32, 20, 80)),
    Workload("mixed long: 16 of 96-448 tokens, 8 adapters", 1.1, mixed(16, 96, 448)),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_models(folder)
        plain = PeftModel.from_pretrained(_base(folder), folder / "ad_0", adapter_name="ad_0")
        resident = ResidentModel(folder / "base", SUMMARY, "cpu", options.batch_tokens)
        for adapter in ADAPTERS:
            resident.add(adapter, AdapterWeights.read(folder / adapter, "cpu"))
            if adapter != ADAPTERS[0]:
                plain.load_adapter(str(folder / adapter), adapter_name=adapter)
        plain.eval()
        http = HttpScorer(resident, folder / "base", VOCABULARY)
        arms = Arms(plain, resident, http)
        print(
            f"{'workload':46}{'tokens':>8}{'computed':>10}{'ratio':>8}{'bar':>6}{'HTTP':>8}"
            "  difference"
        )
        missed = max(_compare(workload, arms, options.rounds) for workload in WORKLOADS)
        http.close()
    return missed


@dataclass(frozen=True)
class Arms:
    """The compared arms: plain PEFT, the resident model, and a scorer with that model over HTTP."""

    plain: PeftModel
    resident: ResidentModel
    http: HttpScorer


def _compare(workload: Workload, arms: Arms, rounds: int) -> int:
    """Print the row of a workload; return 1 if its minimum or the tolerance is missed."""
    groups = workload.make(random.Random(7))
    _one_by_one(arms.plain, groups[:1])  # the first call of each arm is slower
    arms.resident.score(groups[:1])
    arms.http.score(groups[:1])
    times: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        start = time.process_time()
        expected = _one_by_one(arms.plain, groups)
        middle = time.process_time()
        result = arms.resident.score(groups)
        end = time.process_time()
        served, seconds = arms.http.score(groups)
        times.append((middle - start, end - middle, seconds))
    slowest, resident, http = (min(column) for column in zip(*times, strict=True))
    ratio = slowest / resident
    difference = max(
        abs(ours - theirs)
        for found in (result.rewards, served)
        for pair in zip(found, expected, strict=True)
        for ours, theirs in zip(*pair, strict=True)
    )
    total = sum(group.token_count for group in groups)
    is_met = ratio >= workload.bar and difference <= TOLERANCE
    print(
        f"{workload.name:46}{total:8}{result.computed_tokens:10}{ratio:8.2f}{workload.bar:6.1f}"
        f"{slowest / http:8.2f}"
        f"  {difference:.1e}{'' if is_met else '  MISSED'}",
        flush=True,
    )
    return int(not is_met)


def _one_by_one(model: PeftModel, groups: list[ReplyGroup]) -> list[list[float]]:
    rewards = []
    with torch.inference_mode():
        for group in groups:
            model.set_adapter(group.adapter)
            rewards.append(
                [
                    model(
                        input_ids=torch.tensor([sequence]),
                        attention_mask=torch.ones(1, len(sequence), dtype=torch.long),
                    ).logits.item()
                    for sequence in group.sequences
                ]
            )
    return rewards


def _base(folder: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(str(folder / "base"), num_labels=1)
    model.config.pad_token_id = PAD
    return model


def _write_models(folder: Path) -> None:
    torch.manual_seed(7)
    base = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("qwen2", **SHAPE))
    base.save_pretrained(str(folder / "base"))
    for number, name in enumerate(ADAPTERS):
        torch.manual_seed(number)
        adapter = get_peft_model(
            _base(folder),
            LoraConfig(
                task_type="SEQ_CLS",
                r=16,
                lora_alpha=32,
                target_modules="all-linear",
                init_lora_weights=False,
            ),
        )
        adapter.save_pretrained(str(folder / name))


if __name__ == "__main__":
    sys.exit(main())
