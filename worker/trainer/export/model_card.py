"""The model card of an adapter: metadata for the Hub, evaluation results, a scoring program."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from app.domain.plan import TrainingPlan
from worker.reward_model.loading import DeviceConfig, quantization_arguments
from worker.trainer.export.card_results import named_counts, results

_LOADING = """\
```python
import json
import warnings
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer{imported}, logging

# PEFT reads a property of transformers by its old name.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

# transformers reports that the head is random; the adapter brings the trained one.
logging.set_verbosity_error()

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
{encode}
with torch.inference_mode():
    scores = model(**batch).logits[:, 0]
print(scores.tolist())  # raw rewards: higher means better
```
"""
_ENCODE = """\
batch = tokenizer(
    texts,
    add_special_tokens={add_special_tokens},
    padding=True,
    padding_side="right",
    return_token_type_ids=False,
    return_tensors="pt",
).to(model.device){check}"""
_CHECK = """
if batch["input_ids"].shape[1] > facts["max_positions"]:
    raise ValueError("A text has more tokens than the model has positions.")"""
_ENCODE_TRUNCATED = """\
ids = tokenizer(texts, add_special_tokens={add_special_tokens})["input_ids"]
# Longer texts lose the beginning of their prompt, as in training.
kept, last = facts["kept_tokens"], facts["max_length"] - facts["kept_tokens"]
ids = [text[:kept] + text[kept:][-last:] for text in ids]
batch = tokenizer.pad(
    {{"input_ids": ids}}, padding_side="right", return_tensors="pt"
).to(model.device)"""
_SERVICE = """\
The service that trained it also scores with it, for RL trainers too:

```sh
curl "$PLAUDIT_URL/v1/score" -H "Authorization: Bearer $PLAUDIT_API_KEY" --json '{
  "model": "ad_…", "groups": [{"prompt": "Hello", "responses": ["Hello! How can I help?", "No."]}]
}'
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


def model_card(
    summary: Mapping[str, Any],
    plan: TrainingPlan,
    metrics: Mapping[str, float],
    lock: Mapping[str, Any],
) -> str:
    """Return the text of README.md.

    Args:
        summary: the content of reward_model.json.
        lock: the content of run.lock.json; the card tells its "pairs" and "training".
        metrics: ``eval/…`` after training and ``eval_before/…`` before it, if pairs were held out;
            ``eval_maths/…`` and ``eval_before_maths/…`` of a dataset that is called maths.

    Raises:
        ValueError: the metadata would not be read as a mapping.
    """
    counts = lock["pairs"]
    body = "\n".join(
        [
            f"# Reward model on {summary['base_model']}",
            "",
            f"A LoRA adapter (rank {plan.lora['r']}) with a one-number reward head "
            f"({', '.join(plan.head_modules)}) for {plan.architecture}, trained on "
            f"{counts['train']['used']} preference pairs with the Bradley–Terry loss."
            + _head_start(summary)
            + _end(lock["training"]),
            "",
            *_data(plan, counts),
            "## Held-out pairs",
            "",
            *results(metrics, counts),
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
            _SERVICE,
        ]
    )
    # Parsing the whole card checks the metadata as the Hub's client reads it.
    return str(ModelCard(f"---\n{_metadata(summary).to_yaml()}\n---\n\n{body}"))


def _metadata(summary: Mapping[str, Any]) -> ModelCardData:
    """Return the front matter; a base model is named only if it is one of the Hub's."""
    tags = ["transformers", "peft", "lora", "trl", "reward-trainer", "generated_from_trainer"]
    tags += ["reward-model", "plaudit"]
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


def _head_start(summary: Mapping[str, Any]) -> str:
    if summary["head_start"] != "base_model":
        return ""
    return f" The head started from the base model's {', '.join(summary['head_tensors'].values())}."


def _end(training: Mapping[str, Any]) -> str:
    """Which step this is, if it is not the last one of the plan."""
    if training["published_step"] == training["planned_steps"]:
        return ""
    end = "stopped early" if training["stopped_early"] else "ended"
    return (
        f" Training {end} after step {training['steps']} of {training['planned_steps']}; this is "
        f"the model of step {training['published_step']}."
    )


def _data(plan: TrainingPlan, counts: Mapping[str, Any]) -> list[str]:
    """What became of the uploaded pairs, what was left out of them, and what is odd about them."""
    rows = [
        f"| {name} | {part['uploaded']} | {part['dropped']['unrenderable']} | "
        f"{part['dropped']['overlong']} | {part['dropped']['not_drawn']} | {part['truncated']} | "
        f"{part.get('held_out', 0)} | {part['used']} |"
        for name, part in (
            ("training", counts["train"]),
            ("evaluation", counts["eval"]),
            *((f"evaluation ({name})", part) for name, part in named_counts(counts)),
        )
        if part and "uploaded" in part
    ]
    return [
        "## Data",
        "",
        "| dataset | uploaded | not rendered | too long | not drawn | cut | held out | used |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        f"Pairs of more than {counts['max_length']} tokens are too long.",
        "",
        *(f"- {_escaped(each['message'])}" for each in plan.data_warnings()),
        "",
    ]


def _escaped(text: str) -> str:
    """Text from an upload, such as the name of a column, without a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", " ".join(text.split()))


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
        eos = f" + {json.dumps(summary['eos_token'])}" if summary["append_eos"] else ""
        render = _RENDER_TEXT.replace("{eos}", eos)
    arguments = summary.get("load_arguments", {}).items()
    more, imported = "".join(f", {name}={value!r}" for name, value in arguments), ""
    if summary["quantization"] != "none":
        numerics = DeviceConfig("cuda", summary["dtype"] == "bfloat16", summary["quantization"])
        arguments = quantization_arguments(numerics, summary["head_modules"]).items()
        lines = "".join(f"        {name}={value!r},\n" for name, value in arguments)
        more += f",\n    quantization_config=BitsAndBytesConfig(\n{lines}    )"
        imported = ", BitsAndBytesConfig"
    text = _LOADING.format(
        base=base,
        dtype=summary["dtype"],
        more=more,
        imported=imported,
        render=render,
        encode=_encode(summary),
    )
    return text if revision else text.replace("from huggingface_hub import snapshot_download\n", "")


def _encode(summary: Mapping[str, Any]) -> str:
    """Return the statements that tokenise ``texts``; they cut or refuse what is too long."""
    add_special_tokens = summary["add_special_tokens"]
    if summary.get("overlong") == "truncate_left":
        return _ENCODE_TRUNCATED.format(add_special_tokens=add_special_tokens)
    check = _CHECK if summary.get("max_positions") else ""
    return _ENCODE.format(add_special_tokens=add_special_tokens, check=check)
