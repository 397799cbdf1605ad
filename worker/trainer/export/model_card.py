"""The model card of an adapter: metadata for the Hub, evaluation results, a scoring program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from app.domain.plan import TrainingPlan
from worker.reward_model.loading import DeviceConfig, quantization_arguments

#: Metrics of the table, of those that were measured.
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
print(scores.tolist())  # raw rewards: higher means better
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
    """Return the text of README.md.

    Args:
        summary: the content of reward_model.json.
        metrics: ``eval/…`` after training and ``eval_before/…`` before it, if pairs were held out.

    Raises:
        ValueError: the metadata would not be read as a mapping.
    """
    body = "\n".join(
        [
            f"# Reward model on {summary['base_model']}",
            "",
            f"A LoRA adapter (rank {plan.lora['r']}) with a one-number reward head "
            f"({', '.join(plan.head_modules)}) for {plan.architecture}, trained on "
            f"{plan.data.train.pair_count} preference pairs with the Bradley–Terry loss.",
            "",
            *_data_warnings(plan),
            "## Held-out pairs",
            "",
            *_results(metrics),
            "",
            "`accuracy_low` and `accuracy_high` bound a 95 % bootstrap interval; ties count half. "
            "`length_baseline` is the accuracy of always choosing the longer reply.",
            "",
            "## Scoring",
            "",
            "Needs peft ≥ 0.21 and transformers ≥ 5.23: older versions load a random head.",
            "",
            scoring_program(summary),
            "Render texts exactly as the program does. `probes.jsonl` holds rendered texts with "
            "the scores that they must get, `reward_model.json` the settings for scoring, and "
            "`run.lock.json` the inputs and versions of the training run.",
            "",
        ]
    )
    # Parsing the whole card checks the metadata as the Hub's client reads it.
    return str(ModelCard(f"---\n{_metadata(summary).to_yaml()}\n---\n\n{body}"))


def _metadata(summary: Mapping[str, Any]) -> ModelCardData:
    """Return the front matter; a base model is named only if it is one of the Hub's."""
    tags = ["peft", "lora", "trl", "reward-trainer", "reward-model", "plaudit"]
    base = summary["base_model"] if summary["revision"] is not None else None
    if base is not None:
        tags.append(f"base_model:adapter:{base}")  # as PEFT's own cards have it
    return ModelCardData(
        base_model=base,
        base_model_relation=base and "adapter",
        library_name="peft",
        pipeline_tag="text-classification",
        tags=tags,
    )


def _data_warnings(plan: TrainingPlan) -> list[str]:
    """What was left out of the datasets, or is odd about them."""
    warnings = plan.data_warnings()
    if not warnings:
        return []
    return ["## Data", "", *(f"- {_escaped(each['message'])}" for each in warnings), ""]


def _escaped(text: str) -> str:
    """Text from an upload, such as the name of a column, without a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", " ".join(text.split()))


def _results(metrics: Mapping[str, float]) -> list[str]:
    rows = [
        f"| {name} | {_number(metrics, 'eval_before', name)} | {_number(metrics, 'eval', name)} |"
        for name in _SHOWN
        if f"eval/{name}" in metrics
    ]
    if not rows:
        return ["No pairs were held out, so the accuracy of this adapter is unknown."]
    return ["| metric | before training | after training |", "|---|---|---|", *rows]


def scoring_program(summary: Mapping[str, Any]) -> str:
    """Return Markdown with a program that scores replies with plain PEFT.

    Its lines ``base = …``, ``prompt = …`` and ``replies = …`` are there to be edited.
    """
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
        numerics = DeviceConfig("cuda", summary["dtype"] == "bfloat16", summary["quantization"])
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
