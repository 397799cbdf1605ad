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
from transformers import AddedToken, AutoModelForSequenceClassification

from app.domain.plan import BaseModelFacts
from app.domain.spec_problems import SpecRejectedError
from tests.model_factories.architectures import (
    BOS,
    EOS,
    PAD,
    VOCAB_ROWS,
    make_base_model,
    make_tokenizer,
)
from tests.model_factories.orders import facts_of, make_plan
from tests.model_factories.pairs import make_pairs
from tests.trainer.inspection.refusals import refusal
from worker.reward_model.loading import DeviceConfig, load_base
from worker.reward_model.model_config import execution_arguments
from worker.trainer.inspection.base_model import load_on_meta

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
IDS = torch.tensor([[BOS, 20, 21, 22], [BOS, 30, 31, PAD]])


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_inspection_loads_no_weights(tmp_path: Path):
    model, absent, _ = load_on_meta(make_base_model(tmp_path, "bert"))
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


def test_refusal_of_a_multimodal_model_names_a_text_part_that_can_be_trained(tmp_path: Path):
    text = json.loads((make_base_model(tmp_path, "mistral") / "config.json").read_text())
    changes = {"model_type": "mistral3", "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(changes))
    assert "Its text part, of type 'mistral', can be" in refusal(tmp_path)
    changes = {"model_type": "qwen2_5_vl", "text_config": {**text, "model_type": "qwen2_5_vl_text"}}
    (tmp_path / "config.json").write_text(json.dumps(changes))
    assert "'qwen2_5_vl' has no sequence-classification class" in refusal(tmp_path)
    assert "text part" not in refusal(tmp_path)


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


def _config_of_a_list(directory: Path) -> None:
    (directory / "config.json").write_text("[]")


def _in_parts(directory: Path) -> None:
    """Write the weights as two files with an index, as large models have them."""
    weights = load_file(directory / WEIGHTS)
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        save_file({n: weights[n] for n in held}, directory / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / WEIGHTS).unlink()


def _without_a_part(directory: Path) -> None:
    _in_parts(directory)
    (directory / "b.safetensors").unlink()


def _without_an_index(directory: Path) -> None:
    _in_parts(directory)
    (directory / INDEX).unlink()


def _no_tokenizer(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()


def _hole(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})


def _other_vocabulary(directory: Path) -> None:
    edit_config(directory, vocab_size=VOCAB_ROWS * 2)


def _cut(name: str) -> Callable[[Path], Any]:
    """Return a function that leaves the first half of a file, as a download that broke off."""

    def cut(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return cut


def _other_header(directory: Path) -> None:
    header = b'{"a": {"dtype": "F32"}}'
    (directory / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_quantized, "already quantised", id="V2-quantised"),
        pytest.param(_without_weights, "no *.safetensors", id="only-pickles"),
        pytest.param(_truncated, "download it again", id="truncated-file"),
        pytest.param(_config_of_a_list, "config.json is not an object", id="config-of-a-list"),
        pytest.param(_without_a_part, "lacks b.safetensors", id="missing-part"),
        pytest.param(_without_an_index, f"no {INDEX} that names", id="parts-without-an-index"),
        pytest.param(_adapter, "contains an adapter", id="adapter-for-a-base"),
        pytest.param(_remote_code, "does not support model type 'evil'", id="remote-code"),
        pytest.param(_no_tokenizer, "tokenizer", id="no-tokenizer"),
        pytest.param(_hole, "model.layers.1.mlp.down_proj.weight", id="missing-layer"),
        pytest.param(_other_vocabulary, "model.embed_tokens.weight", id="other-vocabulary"),
        pytest.param(
            lambda d: edit_config(d, num_hidden_layers=10**12), "at most 10000", id="many-layers"
        ),
        pytest.param(
            lambda d: edit_config(d, text_config={"num_labels": 1e12}), "num_labels", id="labels"
        ),
        pytest.param(lambda d: (d / "config.json").unlink(), "config.json", id="no-config"),
        pytest.param(_cut(WEIGHTS), f"{WEIGHTS} has", id="half-of-the-weights"),
        pytest.param(_other_header, f"{WEIGHTS} is damaged", id="other-header"),
        pytest.param(
            lambda d: (d / "generation_config.json").write_text("[]"),
            "generation_config.json is damaged",
            id="generation-config",
        ),
    ],
)
def test_damaged_base_model_is_refused(tmp_path: Path, damage: Callable[[Path], Any], reason: str):
    damage(make_base_model(tmp_path, "llama"))
    assert reason in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


#: What a config.json says about how the model was run, and not about the model.
EXECUTION: dict[str, dict[str, Any]] = {
    "tuples": {"return_dict": False},
    "torchscript": {"torchscript": True},
    "more-outputs": {"output_hidden_states": True, "output_attentions": True, "use_cache": True},
    "flash-attention": {"attn_implementation": "flash_attention_3"},
    "flash-attention-by-a-private-name": {"_attn_implementation": "flash_attention_2"},
    "kernel-of-the-hub": {"attn_implementation": "kernels-community/flash-attn"},
    "attention-by-part": {"attn_implementation": {"": "flash_attention_2"}},
    "integer-dtype": {"dtype": "int8"},
    "half-dtype": {"torch_dtype": "float16"},
    "pad-token-without-a-row": {"pad_token_id": VOCAB_ROWS},
    "negative-pad-token": {"pad_token_id": -1},
    "labels": {"num_labels": 5, "problem_type": "multi_label_classification"},
    "names-of-labels": {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}},
    "no-architecture": {"architectures": None},
    "chosen-by-transformers": {"_attn_implementation_autoset": True},
    "kernel-for-experts": {"_experts_implementation": "grouped_mm"},
    "code-of-its-own": {"auto_map": {"AutoModel": "modeling.Model"}},
    "generation": {"temperature": 0.7, "do_sample": True},
}


@pytest.mark.parametrize("settings", EXECUTION.values(), ids=EXECUTION)
def test_scores_do_not_depend_on_how_the_model_was_run(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    make_base_model(tmp_path, "llama")

    def scores(model: Any) -> torch.Tensor:
        model.config.pad_token_id = PAD
        with torch.no_grad():
            model.score.weight.fill_(0.3)
            return torch.as_tensor(model(IDS).logits)

    cpu = DeviceConfig("cpu", bf16=False)
    expected = scores(load_base(str(tmp_path), cpu, ["score"]))
    edit_config(tmp_path, **settings)
    assert facts_of(tmp_path).new_modules == ["score"]
    assert torch.equal(scores(load_base(str(tmp_path), cpu, ["score"])), expected)
    # As the program on the model card loads it.
    plain = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=1, dtype=torch.float32, **execution_arguments(tmp_path)
    )
    assert torch.equal(scores(plain), expected)


def test_only_the_files_that_are_loaded_count(tmp_path: Path) -> None:
    make_base_model(tmp_path, "llama")
    save_file({"score.weight": torch.ones(1, 32)}, tmp_path / "consolidated.safetensors")
    assert facts_of(tmp_path).head_tensors == {}
    _in_parts(tmp_path)
    facts = facts_of(tmp_path)
    assert (facts.head_tensors, facts.dtype) == ({}, "float32")


def test_template_with_a_token_that_has_no_row_is_the_fault_of_the_model(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    filler = [f"filler{i}" for i in range(VOCAB_ROWS - len(tokenizer))]
    tokenizer.add_tokens([AddedToken(word, special=True) for word in [*filler, "<turn>"]])
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m.content }}{% endfor %}"
    facts = facts_of(make_base_model(tmp_path, "llama", tokenizer=tokenizer))
    assert facts.unembedded_in_conversations == {"<turn>": VOCAB_ROWS}
    with pytest.raises(SpecRejectedError) as refused:
        make_plan(facts, make_pairs(4))
    assert [(p.loc, p.code) for p in refused.value.problems] == [
        ("/base_model", "token_outside_embedding")
    ]
    assert "the model and not the data" in str(refused.value)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert make_plan(facts, make_pairs(4), training={"chat_template": template})
    assert make_plan(facts, make_pairs(4, text=True))


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
