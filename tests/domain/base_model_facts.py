"""Factories of facts about base models: a decoder, an encoder and a mixture of experts."""

from __future__ import annotations

from typing import Any

from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.spec import RewardJobSpec
from app.domain.text_format import DataForm

WIDTH, INNER = 32, 64


def decoder(**changes: Any) -> BaseModelFacts:
    """Return the facts of a Llama model with two blocks, a ``score`` head and a pad token."""
    linear: dict[str, tuple[int, int]] = {}
    modules = {"model": 21_280, "model.embed_tokens": 320 * WIDTH, "model.layers": 11_008}
    for i in range(2):
        block = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            linear[f"{block}.self_attn.{name}"] = (WIDTH, WIDTH)
        linear[f"{block}.mlp.up_proj"] = (WIDTH, INNER)
        linear[f"{block}.mlp.down_proj"] = (INNER, WIDTH)
        modules |= {block: 5504, f"{block}.self_attn": 4 * WIDTH * WIDTH, f"{block}.mlp": 4096}
        modules |= {f"{block}.mlp.act_fn": 0, f"{block}.input_layernorm": WIDTH}
    modules |= {path: i * o for path, (i, o) in linear.items()}
    modules |= {"model.norm": WIDTH, "score": WIDTH}
    return BaseModelFacts(
        **{
            "model_type": "llama",
            "architecture": "LlamaForSequenceClassification",
            "digest": "0" * 64,
            "revision": "a" * 40,
            "parameter_count": 21_312,
            "hidden_size": WIDTH,
            "layer_count": 2,
            "vocab_rows": 320,
            "max_positions": 2048,
            "new_modules": ["score"],
            "modules": modules,
            "linear_modules": linear,
            "attention_modules": sorted(p for p in linear if "self_attn" in p),
            "is_causal": True,
            "supports_gradient_checkpointing": True,
            "pad_token": "<pad>",
            "pad_token_id": 0,
            "eos_token": "</s>",
            "eos_token_id": 2,
            "max_token_id": 311,
            "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
            **changes,
        }
    )


def encoder(**changes: Any) -> BaseModelFacts:
    """Return the facts of a BERT masked-LM checkpoint: pooler and classifier are new modules."""
    linear: dict[str, tuple[int, int]] = {}
    modules = {"bert": 5000, "bert.embeddings": 2000, "bert.pooler": WIDTH * WIDTH + WIDTH}
    for i in range(2):
        for name in ("attention.self.query", "attention.output.dense", "output.dense"):
            linear[f"bert.encoder.layer.{i}.{name}"] = (WIDTH, WIDTH)
    modules |= {path: i * o + o for path, (i, o) in linear.items()}
    modules |= {"bert.pooler.dense": WIDTH * WIDTH + WIDTH, "classifier": WIDTH + 1}
    return decoder(
        **{
            "model_type": "bert",
            "architecture": "BertForSequenceClassification",
            "max_positions": 512,
            "new_modules": ["bert.pooler.dense", "classifier"],
            "modules": modules,
            "linear_modules": linear,
            "attention_modules": sorted(p for p in linear if "attention" in p),
            "is_causal": False,
            "eos_token": None,
            "eos_token_id": None,
            "chat_template": None,
            **changes,
        }
    )


def mixture(**changes: Any) -> BaseModelFacts:
    """Return the facts of a Mixtral model, of which LoRA can adapt the attention layers only."""
    dense = decoder()
    attention = {p: s for p, s in dense.linear_modules.items() if "self_attn" in p}
    modules = {p: n for p, n in dense.modules.items() if ".mlp." not in p}
    modules |= {"model.layers.0.mlp.experts": 9000, "model.layers.0.mlp.gate": 128}
    return decoder(
        **{
            "model_type": "mixtral",
            "architecture": "MixtralForSequenceClassification",
            "modules": modules,
            "linear_modules": attention,
            "attention_modules": sorted(attention),
            "is_mixture_of_experts": True,
            **changes,
        }
    )


#: Texts without prompts, which are tokenised as they are, and messages.
TEXT = DataForm(has_texts=True, texts_have_prompts=False)
CONVERSATIONS = DataForm(has_conversations=True)


def dataset(pair_count: int = 100) -> DatasetRef:
    """Return a dataset with that number of pairs."""
    return DatasetRef(id="ds_" + "1" * 32, sha256="2" * 64, pair_count=pair_count)


def job(**changes: Any) -> RewardJobSpec:
    """Return a spec with the required fields and ``changes``."""
    return RewardJobSpec.model_validate(
        {"base_model": "tiny", "train_dataset": "ds_" + "1" * 32, **changes}
    )
