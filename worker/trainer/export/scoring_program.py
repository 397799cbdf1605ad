"""The program on a model card that scores replies with plain PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.reward_model.loading import DeviceConfig, quantization_arguments

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


def scoring_program(summary: Mapping[str, Any]) -> str:
    """Return Markdown with a program that scores replies with plain PEFT.

    Users edit its lines ``base = …``, ``prompt = …`` and ``replies = …``.
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
    """Return the statements that tokenise ``texts`` and truncate or reject long ones."""
    add_special_tokens = summary["add_special_tokens"]
    if summary.get("overlong") == "truncate_left":
        return _ENCODE_TRUNCATED.format(add_special_tokens=add_special_tokens)
    check = _CHECK if summary.get("max_positions") else ""
    return _ENCODE.format(add_special_tokens=add_special_tokens, check=check)
