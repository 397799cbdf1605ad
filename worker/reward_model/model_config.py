"""Load a base model's configuration without its execution settings.

A config.json describes the model, but often also how its last owner ran it: with outputs as tuples,
with attention kernels that are not installed here, or with attention weights as outputs. Such
settings would break or slow down every caller, so they are replaced. So is a pad token without a
row of the embedding, with which a model cannot be built; a job chooses its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

#: Attention implementations of torch itself. Others need kernels, or compile at every new length.
_OWN_ATTENTION = frozenset({"eager", "sdpa"})
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")
_EXPERT_KEYS = ("experts_implementation", "_experts_implementation")


def load_config(model_dir: str | Path) -> PreTrainedConfig:
    """Return the configuration of a classifier with one output for the model in ``model_dir``.

    Raises:
        OSError, ValueError, KeyError: as ``AutoConfig`` does.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        str(model_dir),
        trust_remote_code=False,
        local_files_only=True,
        **execution_arguments(model_dir),
    )
    for part in _parts(config):
        part.return_dict = True
        part.output_hidden_states = False
    config.num_labels = 1
    return config


def execution_arguments(model_dir: str | Path) -> dict[str, Any]:
    """Return arguments of ``from_pretrained`` that replace execution settings of config.json.

    They are empty for most models. None selects the default of transformers.
    """
    parts = list(_raw_parts(json.loads((Path(model_dir) / "config.json").read_text("utf-8"))))
    arguments: dict[str, Any] = {}
    if any(part.get("return_dict") is False for part in parts):
        arguments["return_dict"] = True
    if any(part.get("torchscript") for part in parts):  # PEFT returns tuples if it is set
        arguments["torchscript"] = False
    if any(part.get("output_attentions") for part in parts):
        arguments["output_attentions"] = False
    if any(part.get("output_hidden_states") for part in parts):
        arguments["output_hidden_states"] = False
    for key in _ATTENTION_KEYS:  # the one does not replace the other
        if any(part.get(key) not in (None, *_OWN_ATTENTION) for part in parts):
            arguments[key] = None
    for key in _EXPERT_KEYS:
        if any(part.get(key) for part in parts):
            arguments[key] = None
    if any(_pads_outside_of_embedding(part) for part in parts):
        arguments["pad_token_id"] = None
    return arguments


def _pads_outside_of_embedding(part: dict[str, Any]) -> bool:
    """Whether the pad token has no row, as -1 or a token that was never added to the embedding."""
    pad, rows = part.get("pad_token_id"), part.get("vocab_size")
    return isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows


def _raw_parts(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a config and its nested configs, such as ``text_config``."""
    yield raw
    for value in raw.values():
        if isinstance(value, dict):
            yield from _raw_parts(value)


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            yield from _parts(part)
