"""What an inspection finds in real (tiny) base models, and what it refuses.

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
    BertConfig,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from app.domain.compiler import compile_plan
from app.domain.lifecycle import FailureCode
from app.domain.plan import BaseModelFacts
from tests.domain.base_model_facts import dataset, job
from tests.model_factories.architectures import (
    EOS,
    IM_END,
    PAD,
    VOCAB_ROWS,
    make_base_model,
    make_classifier,
    make_tokenizer,
    tiny_config,
)
from tests.model_factories.orders import facts_of
from worker.reward_model.errors import TrainerError
from worker.reward_model.scoring import score
from worker.trainer.inspection.base_model import load_on_meta
from worker.trainer.inspection.padding_check import TOLERANCE, padding_shift

WEIGHTS = "model.safetensors"


def refusal(directory: Path) -> str:
    with pytest.raises(TrainerError) as failure:
        facts_of(directory)
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    return failure.value.detail


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


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


# -- refused ---------------------------------------------------------------------------------


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


def test_padding_check_finds_architectures_that_mix_padding_in():
    exact = [padding_shift(tiny_config(n)) for n in ("bert", "llama", "gpt2", "mixtral", "bloom")]
    mixed = [padding_shift(tiny_config(name)) for name in ("xlnet", "fnet", "funnel")]
    assert max(exact) < TOLERANCE / 10
    assert min(mixed) > TOLERANCE * 5


def test_padding_check_restores_the_random_state():
    state = torch.random.get_rng_state()
    padding_shift(BertConfig())
    assert torch.equal(torch.random.get_rng_state(), state)


# -- what LoRA may adapt ---------------------------------------------------------------------


def test_missing_support_of_activation_checkpointing_is_found(tmp_path: Path):
    facts = facts_of(make_base_model(tmp_path, "albert"))
    assert not facts.supports_gradient_checkpointing  # V8


def test_lora_never_adapts_a_vision_tower(tmp_path: Path):
    """V9: with "auto" targets, and with a name that both towers have."""
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
    for targets in ("auto", ["q_proj"]):
        plan = compile_plan(
            job(lora={"target_modules": targets}), "hub", facts, dataset(), None, "text"
        )
        names = plan.lora["target_modules"]
        assert isinstance(names, list)
        hit = [p for p in facts.modules if any(p.endswith(f".{name}") for name in names)]
        assert hit
        assert all("language_model" in path for path in hit)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_lora_never_adapts_experts_and_routers(tmp_path: Path, name: str):
    facts = facts_of(make_base_model(tmp_path, name))  # V14
    assert facts.is_mixture_of_experts
    assert sorted(facts.linear_modules) == facts.attention_modules
    assert all("self_attn" in path for path in facts.linear_modules)


# -- tokens and positions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit"), [("llama", 130), ("gpt2", 130), ("roberta", 129), ("mpnet", 128)]
)
def test_positions_reserved_for_padding_are_subtracted(tmp_path: Path, name: str, limit: int):
    assert facts_of(make_base_model(tmp_path, name)).max_positions == limit  # V25


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("name", "sizes", "limit"),
    [
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}, 64),
        ("big_bird", {"block_size": 4, "num_random_blocks": 1}, 28),
    ],
)
def test_score_does_not_depend_on_other_texts_up_to_the_limit(
    tmp_path: Path, name: str, sizes: dict[str, Any], limit: int
):
    make_base_model(tmp_path, name, **sizes)
    assert facts_of(tmp_path).max_positions == limit
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    head = model.get_submodule(facts_of(tmp_path).new_modules[0])
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    short, fits, longer = (list(range(10, 10 + n)) for n in (limit // 2, limit, limit + 1))

    def scores(*texts: list[int]) -> list[float]:
        return score(model, texts, pad_token_id=PAD, batch_size=2)

    def are_equal(*found: float) -> bool:
        return max(found) - min(found) < 1e-5 * (1 + max(map(abs, found)))

    # Longrope changes a whole batch with a longer text. BigBird changes for good at its first
    # shorter one.
    before, (alone,) = scores(longer), scores(short)
    assert not are_equal(*before, *scores(longer)) or not are_equal(alone, scores(short, longer)[0])
    assert are_equal(alone, *scores(short), scores(short, fits)[0])
    assert are_equal(*scores(fits), scores(fits, short)[0])


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_alibi_has_no_limit_of_positions(tmp_path: Path, name: str):
    assert facts_of(make_base_model(tmp_path, name)).max_positions is None


def _with_tokens(*tokens: str) -> Any:
    tokenizer = make_tokenizer(pad_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def test_unused_token_with_an_embedding_row_can_pad(tmp_path: Path):
    tokenizer = _with_tokens("<|reserved_special_token_1|>", "<|reserved_special_token_0|>")
    facts = facts_of(make_base_model(tmp_path, "llama", tokenizer=tokenizer))
    assert (facts.pad_token_id, facts.eos_token_id) == (EOS, EOS)
    ids = tokenizer.get_vocab()
    # "<pad>" is preferred to a reserved token, although it is not the tokenizer's pad token.
    assert facts.spare_pad_tokens == {"<pad>": PAD}
    plan = compile_plan(job(), "hub", facts, dataset(), None, "text")
    assert plan.tokenization.pad_token_id == PAD != EOS
    assert max(ids.values()) < VOCAB_ROWS


def test_reserved_tokens_can_pad_without_a_padding_token(tmp_path: Path):
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(3)]
    template = "{{ messages }}<pad><|reserved_special_token_1|>"
    tokenizer = _with_tokens(*reserved, "<|endoftext|>")
    facts = facts_of(
        make_base_model(tmp_path, "llama", tokenizer=tokenizer), chat_template=template
    )
    ids = tokenizer.get_vocab()
    assert facts.spare_pad_tokens == {t: ids[t] for t in (reserved[0], reserved[2])}


def test_second_end_of_text_can_pad_only_if_it_ends_no_generation(tmp_path: Path):
    tokenizer = _with_tokens("<|endoftext|>")
    make_base_model(tmp_path, "llama", tokenizer=tokenizer)
    token_id = tokenizer.get_vocab()["<|endoftext|>"]
    template = "{{ messages }}<pad>"
    assert facts_of(tmp_path, chat_template=template).spare_pad_tokens == {
        "<|endoftext|>": token_id
    }
    ends = {"eos_token_id": [IM_END, token_id]}
    (tmp_path / "generation_config.json").write_text(json.dumps(ends))
    assert facts_of(tmp_path, chat_template=template).spare_pad_tokens == {}


def test_token_without_an_embedding_row_cannot_pad(tmp_path: Path):
    tokenizer = _with_tokens(*(f"<|reserved_{i}|>" for i in range(20)))
    facts = facts_of(
        make_base_model(tmp_path, "llama", tokenizer=tokenizer), chat_template="{{ messages }}<pad>"
    )
    assert facts.max_token_id >= facts.vocab_rows  # V23
    assert facts.spare_pad_tokens
    assert max(facts.spare_pad_tokens.values()) < facts.vocab_rows
