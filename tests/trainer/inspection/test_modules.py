"""New modules, and modules that LoRA adapts (rules V6 to V14)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from tests.model_factories.architectures import (
    PAD,
    VOCAB_ROWS,
    make_base_model,
    make_classifier,
    make_tokenizer,
    tiny_config,
)
from tests.model_factories.orders import facts_of, make_text_plan
from tests.trainer.inspection.refusals import refusal

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bert", ["bert.pooler.dense", "classifier"]),
        ("deberta-v2", ["classifier", "pooler.dense"]),
        ("albert", ["albert.pooler", "classifier"]),
        ("distilbert", ["classifier", "pre_classifier"]),
        ("modernbert", ["classifier"]),
        ("modernbert-decoder", ["classifier", "head.dense", "head.norm"]),
        ("roberta", ["classifier"]),
        ("eurobert", ["classifier", "dense"]),
        ("flaubert", ["sequence_summary.summary"]),
        ("llama", ["score"]),
        ("gpt2", ["score"]),
        ("mixtral", ["score"]),
    ],
)
def test_head_consists_of_the_modules_that_are_absent(tmp_path: Path, name: str, head: list[str]):
    facts = facts_of(make_base_model(tmp_path, name))
    assert facts.new_modules == head
    assert not [p for p in facts.linear_modules for h in head if p == h or p.startswith(f"{h}.")]


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
    ids=["qwen2-called-llama", "qwen3-called-llama", "adapter-inside"],
)
def test_model_whose_weights_would_be_ignored_is_refused(tmp_path: Path, key: str):
    weights = make_base_model(tmp_path, "llama") / WEIGHTS
    tensors = load_file(weights) | {key: torch.ones(8)}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert f"would ignore 1 tensors of the base model: {key}" in refusal(tmp_path)
    # A bare backbone is saved without the prefix.
    bare = {k.removeprefix("model."): v for k, v in tensors.items() if "lm_head" not in k}
    save_file(bare, weights, metadata={"format": "pt"})
    assert "would ignore 1 tensors of the base model" in refusal(tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.bias",
        "value_head.weight",
    ],
    ids=["next-token-layer", "frequencies", "causal-mask", "other-head"],
)
def test_weights_that_are_not_needed_are_ignored(tmp_path: Path, key: str):
    weights = make_base_model(tmp_path, "llama") / WEIGHTS
    save_file(load_file(weights) | {key: torch.ones(8)}, weights, metadata={"format": "pt"})
    assert facts_of(tmp_path).new_modules == ["score"]


def test_pooler_in_the_files_is_not_new(tmp_path: Path):
    BertModel(tiny_config("bert")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert facts_of(tmp_path).new_modules == ["classifier"]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bert", ["classifier"]),
        ("roberta", ["classifier"]),
        ("distilbert", ["classifier", "pre_classifier"]),
        ("flaubert", ["sequence_summary.summary"]),
        ("llama", ["score"]),
    ],
)
@pytest.mark.parametrize(
    "labels", [pytest.param(1, id="V7-reward-model"), pytest.param(3, id="V6-three-labels")]
)
def test_head_of_a_classifier_is_trained_again(
    tmp_path: Path, name: str, head: list[str], labels: int
):
    facts = facts_of(make_classifier(tmp_path, name, labels))
    assert facts.new_modules == head
    assert facts.modules[head[0]] < 2000  # parameters of a head with one output


@pytest.mark.parametrize("targets", ["auto", ["q_proj"]], ids=["auto", "name of both towers"])
def test_lora_never_adapts_a_vision_tower(tmp_path: Path, targets: str | list[str]):  # V9
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = Gemma3Config(
        text_config={
            **sizes,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": VOCAB_ROWS,
            "pad_token_id": PAD,
        },
        vision_config={**sizes, "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    facts = facts_of(tmp_path)
    assert len(facts.linear_modules) == 14
    assert all("language_model" in path for path in facts.linear_modules)
    assert any("vision" in path and path.endswith("q_proj") for path in facts.modules)
    names = make_text_plan(facts, lora={"target_modules": targets}).lora_arguments.target_modules
    hit = [p for p in facts.modules if any(p.endswith(f".{name}") for name in names)]
    assert hit
    assert all("language_model" in path for path in hit)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_lora_never_adapts_experts_and_routers(tmp_path: Path, name: str):
    facts = facts_of(make_base_model(tmp_path, name))  # V14
    assert facts.is_mixture_of_experts
    assert sorted(facts.linear_modules) == facts.attention_modules
    assert all("self_attn" in path for path in facts.linear_modules)
