"""Tiny random base models of many architectures.

Encoders are saved as masked language models and decoders as causal ones, as real base models are. A
reward model on them therefore gets a new head, and perhaps a new pooler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>"]
PAD, BOS, EOS, UNK, MASK, IM_START, IM_END = range(len(SPECIAL))
VOCAB_ROWS = 320
GAIN = 5.0
_TEXT = (
    "a good answer says what is true and helps; a bad answer does not. how do I cook rice? rinse "
    "it, boil it, rest it. why is the sky blue? because air scatters blue light the most."
)
#: Sizes of a tiny model; a configuration gets those whose names it has.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff"), 64),
    **dict.fromkeys(("ffn_hidden_size", "moe_intermediate_size", "d_inner"), 64),
    "shared_expert_intermediate_size": 64,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 130),
    "head_dim": 8,
    "vocab_size": VOCAB_ROWS,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


@dataclass(frozen=True)
class Architecture:
    """A model type, the class that its base models are saved with, and its own sizes."""

    model_type: str
    saved_as: type = AutoModelForCausalLM
    sizes: dict[str, Any] = field(default_factory=dict)
    #: Words of the reason if the architecture is refused.
    refused: str | None = None


def _causal(*names: str, **sizes: Any) -> list[Architecture]:
    return [Architecture(name, AutoModelForCausalLM, sizes) for name in names]


def _masked(*names: str, **sizes: Any) -> list[Architecture]:
    return [Architecture(name, AutoModelForMaskedLM, sizes) for name in names]


def _base(*names: str, **sizes: Any) -> list[Architecture]:
    return [Architecture(name, AutoModel, sizes) for name in names]


_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
           "v_head_dim": 8, "num_key_value_heads": 4}  # fmt: skip
_LINEAR_ATTENTION = {"linear_num_value_heads": 4, "linear_num_key_heads": 2,
                     "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                     "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in [
        # Decoders
        *_causal("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi"),
        *_causal("phi3", "gpt2", "gpt_neox", "gpt_bigcode", "bloom", "opt", "falcon", "mpt"),
        *_causal("stablelm", "starcoder2", "olmo", "olmo2", "olmo3", "smollm3", "glm", "glm4"),
        *_causal("exaone4", "helium", "biogpt", "persimmon", "seed_oss", "ministral3", "arcee"),
        *_causal("diffllama", "openai-gpt", "doge", "ctrl"),
        *_causal("ministral", "nemotron", "hunyuan_v1_dense"),
        *_causal("gptj", rotary_dim=4),
        *_causal("gpt_neo", attention_types=[[["global", "local"], 1]]),
        *_causal("minicpm3", **_LATENT),
        *_causal("qwen3_5_text", **_LINEAR_ATTENTION),
        *_causal("modernbert-decoder"),
        # Mixtures of experts
        *_causal("mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "gpt_oss", "jetmoe"),
        *_causal("deepseek_v2", "deepseek_v3", **_LATENT, n_group=1, topk_group=1,
                 first_k_dense_replace=1),
        *_causal("qwen3_next", **_LINEAR_ATTENTION),
        # Encoders
        *_masked("bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "modernbert"),
        *_masked("xlm-roberta", "camembert", "mpnet", "ernie", "rembert", "roformer", "eurobert"),
        *_masked("megatron-bert", "mobilebert", "big_bird", "longformer", "deberta"),
        *_masked("layoutlm", "nomic_bert", "roberta-prelayernorm", "xlm-roberta-xl"),
        *_masked("data2vec-text", "esm", "flaubert"),
        *_masked("xlm", "gte", "jina_embeddings_v3"),
        *_masked("luke", entity_vocab_size=8),
        *_masked("roc_bert", pronunciation_vocab_size=8, shape_vocab_size=8),
        *_base("markuplm", max_depth=4, xpath_unit_hidden_size=4),
        *_base("tapas"),
        *_base("lilt", hidden_size=48),
        # Refused
        Architecture("xlnet", AutoModelForCausalLM, {"d_head": 8}, "right padding"),
        Architecture("funnel", AutoModelForMaskedLM, {}, "right padding"),
        Architecture("fnet", AutoModelForMaskedLM, {}, "right padding"),
        Architecture("convbert", AutoModelForMaskedLM, {}, "right padding"),
        Architecture("nystromformer", AutoModelForMaskedLM, {}, "right padding"),
        Architecture("yoso", AutoModelForMaskedLM, {}, "right padding"),
        Architecture("canine", AutoModel, {}, "right padding"),
        Architecture("mra", AutoModelForMaskedLM, {}, "CUDA kernels"),
        Architecture("xmod", AutoModelForMaskedLM, {}, "needs a language"),
        Architecture("reformer", AutoModel, {"attention_head_size": 8, "is_decoder": False,
                     "axial_pos_embds": False}, "changes at every call"),
        Architecture("squeezebert", AutoModelForMaskedLM, {}, "no linear layer"),
        Architecture("t5", AutoModelForSeq2SeqLM, {}, "encoder-decoder"),
        Architecture("bart", AutoModelForSeq2SeqLM, {}, "encoder-decoder"),
        Architecture("mamba", AutoModelForCausalLM, {}, "no sequence-classification class"),
        Architecture("cohere", AutoModelForCausalLM, {}, "no sequence-classification class"),
        Architecture("granite", AutoModelForCausalLM, {}, "no sequence-classification class"),
    ]
}  # fmt: skip


def make_base_model(
    directory: Path, name: str, *, tokenizer: PreTrainedTokenizerFast | None = None, **sizes: Any
) -> Path:
    """Save a tiny random base model of architecture ``name`` with its tokenizer."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = architecture.saved_as.from_config(tiny_config(name, **sizes))
    _scale_up(model).save_pretrained(directory)
    (tokenizer or make_tokenizer()).save_pretrained(directory)
    return directory


def make_classifier(directory: Path, name: str, num_labels: int, **sizes: Any) -> Path:
    """Save a tiny random base model that is already a classifier."""
    torch.manual_seed(0)
    config = tiny_config(name, num_labels=num_labels, **sizes)
    _scale_up(AutoModelForSequenceClassification.from_config(config)).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def tiny_config(name: str, **sizes: Any) -> Any:
    """Return the configuration of a model of some ten thousand parameters."""
    kind = CONFIG_MAPPING[ARCHITECTURES[name].model_type]
    fields = {*kind.__dataclass_fields__, *kind.attribute_map}
    given = {key: value for key, value in _SIZES.items() if key in fields}
    return kind(**{**given, **ARCHITECTURES[name].sizes, **sizes})


def make_tokenizer(**named: str | None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with a pad token, an EOS token and a chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [_TEXT],
        trainers.BpeTrainer(
            vocab_size=VOCAB_ROWS - 8,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokens = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        **named,
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        **tokens,
    )


def _scale_up(model: Any) -> Any:
    """Scale the weights: with a deviation of 0.02 every text gets almost the same score."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(GAIN)
    return model
