"""Does right padding change the score? Asked of a tiny random model of the same architecture."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

#: Whatever a library raises when it is given a configuration or an input that it cannot take.
UNUSABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)

#: Scores here are about 0.1 to 10; architectures that mask padding differ by 1e-6 at most, those
#: that mix it in (FNet, Funnel, Canine, ConvBERT, Nyströmformer, YOSO) by 1e-4 and more.
TOLERANCE = 2e-5
_PAD, _VOCAB = 0, 64
_MOST_PARAMETERS = 20_000_000
#: Random weights of deviation 0.02 make attention nearly uniform; these make it choose.
_GAIN = 5.0
#: Names that the families give to one size; what is not named here keeps its value.
_WIDTHS = {
    32: ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim", "n_embed",
         "pooler_hidden_size", "q_lora_rank", "kv_lora_rank", "mamba_d_state"),
    64: ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "moe_intermediate_size",
         "ffn_hidden_size", "shared_expert_intermediate_size"),
    16: ("head_dim", "d_head", "d_kv", "v_head_dim", "qk_nope_head_dim", "linear_key_head_dim",
         "linear_value_head_dim"),
    8: ("rotary_dim", "qk_rope_head_dim"),
    4: ("num_experts", "num_local_experts", "n_routed_experts", "linear_num_value_heads"),
    2: ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads",
        "num_kv_heads", "num_experts_per_tok", "top_k", "linear_num_key_heads"),
    1: ("n_group", "topk_group", "first_k_dense_replace"),
    _VOCAB: ("vocab_size", "vocab_size_per_layer_input", "entity_vocab_size"),
}  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class NotShrinkableError(Exception):
    """No small model of this architecture could be built and run."""


def padding_shift(config: PreTrainedConfig) -> float:
    """How much right padding moves the score of a short text, relative to 1 + |score|, in fp32.

    Raises:
        NotShrunk: no tiny model could be made from the configuration, so nothing is known.
    """
    state = torch.random.get_rng_state()
    try:
        return _shift(_tiny_model(config))
    finally:
        torch.random.set_rng_state(state)


def _shift(model: PreTrainedModel) -> float:
    short = [5, 9, 7, 11, 6]
    long = [8, 12, 5, 10, 9, 6, 13, 7, 11, 14, 5, 8]
    ids = torch.tensor([short + [_PAD] * (len(long) - len(short)), long])
    mask = torch.tensor([[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)])
    with torch.no_grad():
        try:
            alone = model(
                input_ids=torch.tensor([short]), attention_mask=torch.ones(1, len(short)).long()
            ).logits
            padded = model(input_ids=ids, attention_mask=mask).logits
        except UNUSABLE as error:
            raise NotShrinkableError(f"{type(error).__name__}: {error}") from error
    if alone.shape != (1, 1) or padded.shape != (2, 1):
        raise NotShrinkableError(f"it gives {tuple(padded.shape)} instead of one score a text")
    score = alone[0, 0].item()
    return float(abs(score - padded[0, 0].item()) / (1 + abs(score)))


def _tiny_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Narrow and shallow, or else only shallow, if that is small enough."""
    reasons = []
    for sizes in (_narrow, _shallow):
        try:
            tiny = _resized(config, sizes)
            architecture: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(tiny)]
            with torch.device("meta"):
                size = architecture(tiny).num_parameters()
            if size > _MOST_PARAMETERS:
                raise NotShrinkableError(f"still {size} parameters")
            torch.manual_seed(0)
            model: PreTrainedModel = architecture(tiny).float().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(_GAIN)
            _shift(model)
            return model
        except (NotShrinkableError, *UNUSABLE) as error:
            reasons.append(str(error))
    raise NotShrinkableError("; ".join(reasons))


def _resized(config: PreTrainedConfig, sizes: Any) -> PreTrainedConfig:
    values = config.to_dict()
    sizes(values)
    for part in values.values():
        if isinstance(part, dict) and any(depth in part for depth in _DEPTHS):
            sizes(part)
    values["num_labels"] = 1
    return type(config).from_dict(values)


def _narrow(values: dict[str, Any]) -> None:
    _shallow(values)
    for size, names in _WIDTHS.items():
        for name in names:
            if isinstance(values.get(name), int):
                values[name] = min(size, values[name])


def _shallow(values: dict[str, Any]) -> None:
    """Two layers, or one of each kind where layers differ."""
    depth = next((values[d] for d in _DEPTHS if isinstance(values.get(d), int)), None)
    if depth is not None and depth > 2:
        kinds = values.get("layer_types") or values.get("layers_block_type") or [None] * depth
        kept = sorted({kinds.index(kind) for kind in kinds} | {0, 1})
        for name, value in values.items():
            if isinstance(value, list) and len(value) == depth:
                values[name] = [value[i] for i in kept]
            elif name in _DEPTHS and value == depth:
                values[name] = len(kept)
    for name in values:
        if name.endswith("_token_id") and isinstance(values[name], int):
            values[name] = min(values[name], _VOCAB - 1)
    values["pad_token_id"] = _PAD
