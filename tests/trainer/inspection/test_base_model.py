"""The facts that an inspection finds in real (tiny) base models, and the rejected models.

Rules V1 to V30 list what can go wrong with a reward adapter. Rules that need no model files are
tested in tests/domain/test_rules.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
)

from app.domain.plan import BaseModelFacts
from tests.model_factories.architectures import (
    EOS,
    PAD,
    VOCAB_ROWS,
    make_base_model,
    make_tokenizer,
)
from tests.model_factories.orders import facts_of
from tests.trainer.inspection.refusals import refusal
from worker.trainer.inspection.base_model import load_on_meta

WEIGHTS = "model.safetensors"


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_inspection_loads_no_weights(tmp_path: Path):
    model, absent = load_on_meta(make_base_model(tmp_path, "bert"))
    assert all(p.is_meta for p in model.parameters())
    assert {key.rpartition(".")[0] for key in absent} == {"bert.pooler.dense", "classifier"}


def test_facts_of_a_decoder(tmp_path: Path):
    facts = facts_of(make_base_model(tmp_path, "llama"))
    assert facts.model_type == "llama"
    assert facts.architecture == "LlamaForSequenceClassification"
    assert (facts.hidden_size, facts.layer_count, facts.vocab_rows) == (32, 2, VOCAB_ROWS)
    assert facts.linear_modules["model.layers.1.mlp.down_proj"] == (64, 32)
    assert len(facts.linear_modules) == 14
    assert facts.modules["score"] == 32
    assert (facts.pad_token, facts.pad_token_id, facts.eos_token_id) == ("<pad>", PAD, EOS)
    assert facts.is_causal
    assert facts.supports_gradient_checkpointing
    assert facts.max_token_id < VOCAB_ROWS
    assert facts.chat_template
    assert facts.dtype == "float32"
    assert BaseModelFacts.model_validate_json(facts.model_dump_json()) == facts


def test_parameters_are_counted_as_in_the_real_model(tmp_path: Path):
    facts = facts_of(make_base_model(tmp_path, "gpt2"))
    real = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert facts.parameter_count == sum(p.numel() for p in real.parameters())
    assert facts.linear_modules["transformer.h.0.attn.c_attn"] == (32, 96)


def test_template_of_the_catalogue_overrides_that_of_the_tokenizer(tmp_path: Path):
    make_base_model(tmp_path, "llama")
    assert facts_of(tmp_path, chat_template="mine").chat_template == "mine"


def test_template_named_default_is_used(tmp_path: Path):
    make_base_model(tmp_path, "llama", tokenizer=make_tokenizer())
    own = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    assert facts_of(tmp_path).chat_template == own
    (tmp_path / "chat_template.jinja").unlink()
    assert "chat templates (tool_use) is named 'default'" in refusal(tmp_path)
    assert facts_of(tmp_path, chat_template="mine").chat_template == "mine"


def test_too_long_chat_template_is_refused(tmp_path: Path):
    make_base_model(tmp_path, "llama")
    template = tmp_path / "chat_template.jinja"
    assert template.exists()
    template.write_text("x" * 65_536)
    assert facts_of(tmp_path).chat_template == "x" * 65_536
    template.write_text("é" * 32_769)
    assert "chat template has 65538 bytes" in refusal(tmp_path)
    assert facts_of(tmp_path, chat_template="mine").chat_template == "mine"


def test_dtype_of_the_weights_is_read_from_the_files(tmp_path: Path):
    make_base_model(tmp_path, "llama")
    weights = load_file(tmp_path / WEIGHTS)
    half = {name: t.to(torch.bfloat16) for name, t in weights.items()}
    save_file(half, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert facts_of(tmp_path).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("mamba", "'mamba' has no sequence-classification class", id="V1-mamba"),
        pytest.param("cohere", "'cohere' has no sequence-classification class", id="V1-cohere"),
        pytest.param("t5", "encoder-decoder", id="V3-t5"),
        pytest.param("bart", "encoder-decoder", id="V3-bart"),
        pytest.param("xlnet", "depends on right padding", id="V4-xlnet"),
        pytest.param("funnel", "depends on right padding", id="V5-funnel"),
        pytest.param("fnet", "depends on right padding", id="V5-fnet"),
        pytest.param("squeezebert", "no linear layer", id="V13-nothing-to-adapt"),
        pytest.param("reformer", "the score changes at every call", id="random-hashes"),
    ],
)
def test_unsupported_architecture_is_refused(tmp_path: Path, name: str, reason: str):
    assert reason in refusal(make_base_model(tmp_path, name))


def _quantized(directory: Path) -> None:
    edit_config(directory, quantization_config={"quant_method": "bitsandbytes"})


def _without_weights(directory: Path) -> None:
    torch.save({}, directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def _truncated(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:1000])


def _adapter(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")


def _remote_code(directory: Path) -> None:
    ran = directory / "ran"
    (directory / "configuration_evil.py").write_text(f"open({str(ran)!r}, 'w')")
    edit_config(
        directory,
        model_type="evil",
        auto_map={"AutoConfig": "configuration_evil.EvilConfig"},
    )


def _no_tokenizer(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()


def _hole(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})


def _other_vocabulary(directory: Path) -> None:
    edit_config(directory, vocab_size=VOCAB_ROWS * 2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_quantized, "already quantised", id="V2-quantised"),
        pytest.param(_without_weights, "no *.safetensors", id="only-pickles"),
        pytest.param(_truncated, "download it again", id="truncated-file"),
        pytest.param(_adapter, "contains an adapter", id="adapter-for-a-base"),
        pytest.param(_remote_code, "does not support model type 'evil'", id="remote-code"),
        pytest.param(_no_tokenizer, "tokenizer", id="no-tokenizer"),
        pytest.param(_hole, "model.layers.1.mlp.down_proj.weight", id="missing-layer"),
        pytest.param(_other_vocabulary, "model.embed_tokens.weight", id="other-vocabulary"),
        pytest.param(lambda d: (d / "config.json").unlink(), "config.json", id="no-config"),
    ],
)
def test_damaged_base_model_is_refused(tmp_path: Path, damage: Callable[[Path], Any], reason: str):
    damage(make_base_model(tmp_path, "llama"))
    assert reason in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_missing_support_of_activation_checkpointing_is_found(tmp_path: Path):
    facts = facts_of(make_base_model(tmp_path, "albert"))
    assert not facts.supports_gradient_checkpointing  # V8


@pytest.mark.parametrize(
    ("name", "limit"), [("llama", 130), ("gpt2", 130), ("roberta", 129), ("mpnet", 128)]
)
def test_positions_reserved_for_padding_are_subtracted(tmp_path: Path, name: str, limit: int):
    assert facts_of(make_base_model(tmp_path, name)).max_positions == limit  # V25


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_alibi_has_no_limit_of_positions(tmp_path: Path, name: str):
    assert facts_of(make_base_model(tmp_path, name)).max_positions is None
