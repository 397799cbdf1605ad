"""The model card of an adapter: what it is, how good it is, how to score with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.plan import TrainingPlan
from worker.trainer.model import Numerics, quantization_arguments

_SHOWN = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "loss",
    "margin_mean",
    "margin_std",
    "ece",
    "brier",
    "length_spearman",
    "length_baseline",
    "accuracy_when_shorter",
    "pairs",
)
_LOADING = """\
```python
import json
import warnings
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer{imported}

# PEFT reads a property of transformers by its old name.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

adapter = Path(".")  # this directory
base = {base}

facts = json.loads((adapter / "reward_model.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(adapter)
model = AutoModelForSequenceClassification.from_pretrained(
    base, num_labels=1, dtype=torch.{dtype}, ignore_mismatched_sizes=True{more}
)
model.config.get_text_config().pad_token_id = facts["pad_token_id"]
model = PeftModel.from_pretrained(model, adapter).eval()

{render}
batch = tokenizer(
    texts,
    add_special_tokens={add_special_tokens},
    padding=True,
    padding_side="right",
    return_token_type_ids=False,
    return_tensors="pt",
).to(model.device)
with torch.inference_mode():
    scores = model(**batch).logits[:, 0]
print(scores.tolist())  # raw rewards: a higher one is a better reply
```
"""
_RENDER_CHAT = """\
prompt = [{"role": "user", "content": "Hello"}]
replies = ["Hello! How can I help?", "No."]
texts = [
    tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": reply}], tokenize=False
    )
    for reply in replies
]"""
_RENDER_TEXT = """\
prompt = "Hello "
replies = ["Hello! How can I help?", "No."]
texts = [prompt + reply{eos} for reply in replies]"""


def model_card(summary: Mapping[str, Any], plan: TrainingPlan, metrics: Mapping[str, float]) -> str:
    """Markdown with the front matter that the Hub reads."""
    rows = [
        f"| {name} | {_number(metrics, 'eval_before', name)} | {_number(metrics, 'eval', name)} |"
        for name in _SHOWN
        if f"eval/{name}" in metrics
    ]
    table = (
        ["| metric | untrained | trained |", "|---|---|---|", *rows]
        if rows
        else ["No pairs were held out, so nothing is known about how good it is."]
    )
    return "\n".join(
        [
            "---",
            f"base_model: {summary['base_model']}",
            "library_name: peft",
            "pipeline_tag: text-classification",
            "tags: [reward-model, lora, plaudit]",
            "---",
            "",
            f"# Reward model on {summary['base_model']}",
            "",
            f"A LoRA adapter (rank {plan.lora['r']}) with a one-number reward head "
            f"({', '.join(plan.head_modules)}) for {plan.architecture}, trained on "
            f"{plan.data.train.pair_count} preference pairs with the Bradley–Terry loss.",
            "",
            "## Held-out pairs",
            "",
            *table,
            "",
            "`accuracy_low` and `accuracy_high` bound a 95 % bootstrap interval; ties count half. "
            "`length_baseline` is the accuracy of taking the longer reply.",
            "",
            "## Scoring",
            "",
            "Needs peft ≥ 0.21 and transformers ≥ 5.23: older ones load a random head.",
            "",
            scoring_program(summary),
            "The texts must be rendered exactly like that. `probes.jsonl` holds rendered texts "
            "with the scores they must get; `reward_model.json` says the rest, "
            "`run.lock.json` how it was made.",
            "",
        ]
    )


def scoring_program(summary: Mapping[str, Any]) -> str:
    """Markdown: a program that scores replies with plain PEFT; people put their own values into
    its lines ``base = …``, ``prompt = …`` and ``replies = …``."""
    revision, name = summary["revision"], summary["base_model"]
    base = f'"/path/to/{name}"  # the directory of the base model\'s files'
    if revision is not None:
        base = f'snapshot_download("{name}", revision="{revision}")  # or a directory'
    render = _RENDER_CHAT
    if summary["data_format"] == "text":
        eos = f' + "{summary["eos_token"]}"' if summary["append_eos"] else ""
        render = _RENDER_TEXT.replace("{eos}", eos)
    more, imported = "", ""
    if summary["quantization"] != "none":
        numerics = Numerics("cuda", summary["dtype"] == "bfloat16", summary["quantization"])
        arguments = quantization_arguments(numerics, summary["head_modules"])
        lines = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
        more = f",\n    quantization_config=BitsAndBytesConfig(\n{lines}    )"
        imported = ", BitsAndBytesConfig"
    text = _LOADING.format(
        base=base,
        dtype=summary["dtype"],
        more=more,
        imported=imported,
        render=render,
        add_special_tokens=summary["add_special_tokens"],
    )
    return text if revision else text.replace("from huggingface_hub import snapshot_download\n", "")


def _number(metrics: Mapping[str, float], group: str, name: str) -> str:
    value = metrics.get(f"{group}/{name}")
    return "–" if value is None else f"{value:.4g}"
