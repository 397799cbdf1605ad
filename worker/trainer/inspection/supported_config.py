"""Check whether the configuration of a base model is supported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig

from worker.reward_model.errors import unsupported_model
from worker.reward_model.model_config import load_config
from worker.trainer.inspection.padding_check import (
    TOLERANCE,
    UNSUPPORTED_ERRORS,
    NoTinyModelError,
    padding_shift,
)

#: Numbers of a config for each of which a module or an entry is made, and their limits. With 10**12
#: layers the inspection would run until its memory is exhausted.
_COUNTS = (
    (re.compile(r"layers?$|^depth$|groups?(_num)?$|experts$"), 10_000),
    (re.compile(r"^num_labels$"), 1_000_000),
)
#: Model types that read their score at the last position, whether it is padding or not.
READS_LAST_POSITION = frozenset({"xlnet"})
#: Model types that need more input than token ids and an attention mask.
NEEDS_MORE_THAN_TEXT = {
    "layoutlmv2": "images and boxes with every text",
    "layoutlmv3": "images and boxes with every text",
    "mra": "CUDA kernels of its own, without which every text gets the same score",
    "perceiver": "texts of one fixed length",
    "reformer": "a hash seed with every text, without which the score changes at every call",
    "xmod": "a language with every text",
}


def read_supported_config(model_dir: Path) -> PreTrainedConfig:
    """Return the configuration in ``model_dir``.

    Raises:
        TrainerError: model_unsupported, with what was found and what to use instead.
    """
    try:
        raw = json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unsupported_model(
            f"the base model's config.json cannot be read: {short(error)}"
        ) from error
    if not isinstance(raw, dict):
        raise unsupported_model("the base model's config.json is not an object; download it again")
    if (model_dir / "adapter_config.json").exists():
        raise unsupported_model(
            "the directory contains an adapter (adapter_config.json) and not a whole model; use "
            "the adapter's base model, or merge the adapter first"
        )
    if _is_quantized(raw):
        raise unsupported_model(
            "the base model is already quantised (quantization_config in its config.json) and "
            'cannot get a reward head; use the unquantised model with quantization "4bit"'
        )
    _check_counts(raw)
    try:
        config = load_config(model_dir)
    except UNSUPPORTED_ERRORS as error:
        raise unsupported_model(
            f"transformers {transformers.__version__} does not support model type "
            f"'{raw.get('model_type')}', or not this config.json: {short(error)}; the operator "
            "can correct it, or list a model of another type"
        ) from error
    _check_model_type(config)
    return config


def _check_model_type(config: PreTrainedConfig) -> None:
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise unsupported_model(
            f"model type '{config.model_type}' has no sequence-classification class in "
            f"transformers {transformers.__version__}; it cannot be trained as a reward model"
            f"{_text_part_advice(config)}"
        )
    if more := NEEDS_MORE_THAN_TEXT.get(config.model_type):
        raise unsupported_model(f"model type '{config.model_type}' needs {more}; use another model")
    if config.is_encoder_decoder:
        raise unsupported_model(
            f"model type '{config.model_type}' is an encoder-decoder: it reads its score at EOS "
            "tokens and fails on batches with different numbers of them; use an encoder or a "
            "decoder"
        )


def _text_part_advice(config: PreTrainedConfig) -> str:
    """Return what to do with a multimodal model whose text part alone can be trained."""
    text = config.get_text_config()
    if text is config or type(text) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return ""
    return (
        f". Its text part, of type '{text.model_type}', can be: the operator can save that as a "
        "model of its own, and list it"
    )


def _check_counts(raw: dict[str, Any]) -> None:
    for name, value in _numbers(raw):
        for pattern, most in _COUNTS:
            if pattern.search(name) and value > most:
                raise unsupported_model(
                    f"the base model's config.json has {name} {value}, and at most {most} are "
                    "supported; the operator can correct it"
                )


def _numbers(raw: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a config and of its nested configs, such as ``text_config``."""
    for name, value in raw.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield name, value


def _is_quantized(raw: dict[str, Any]) -> bool:
    parts = [raw, *(v for v in raw.values() if isinstance(v, dict))]
    return any(part.get("quantization_config") for part in parts)


def check_padding(config: PreTrainedConfig, architecture: str) -> None:
    """Check that the scores of an architecture do not change with right padding.

    Raises:
        TrainerError: model_unsupported if they change.
    """
    reason = None
    if config.model_type in READS_LAST_POSITION:
        reason = "it reads the score at the last position, even if that is padding"
    else:
        try:
            shift = padding_shift(config)
        except NoTinyModelError:
            return
        if shift > TOLERANCE:
            reason = f"padding moved the score of a tiny model of this type by {shift:.2g}"
    if reason:
        raise unsupported_model(
            f"the score of {architecture} depends on right padding: {reason}; use another model"
        )


def short(error: BaseException) -> str:
    """Return an error as one short line: its type, and up to 500 characters of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
