"""Check whether right padding changes the score, with a tiny random model of the architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

#: Exceptions that libraries raise for a configuration or an input that they do not support.
UNSUPPORTED_ERRORS = (
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

#: Scores of the tiny models are about 0.1 to 10. Architectures that mask padding differ by 1e-6 at
#: most; those that mix it in (FNet, Funnel, Canine, ConvBERT, Nyströmformer, YOSO) by 1e-4 or more.
TOLERANCE = 2e-5
_PAD, _VOCABULARY = 0, 64
_MAX_PARAMETERS = 20_000_000
#: Factor for the random weights: a deviation of 0.02 would make attention nearly uniform.
_GAIN = 5.0
#: Names that configurations give to each size. Sizes with other names keep their values.
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
    _VOCABULARY: ("vocab_size", "vocab_size_per_layer_input", "entity_vocab_size"),
}  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class NoTinyModelError(Exception):
    """No small model of the architecture could be built and run."""


def padding_shift(config: PreTrainedConfig) -> float:
    """Return how far right padding moves the score of a short text, relative to 1 + |score|.

    Computed in fp32; torch's random state is restored.

    Raises:
        NoTinyModelError: no tiny model could be built from the configuration.
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
        except UNSUPPORTED_ERRORS as error:
            raise NoTinyModelError(f"{type(error).__name__}: {error}") from error
    if alone.shape != (1, 1) or padded.shape != (2, 1):
        raise NoTinyModelError(f"its output is {tuple(padded.shape)} and not one score per text")
    score = alone[0, 0].item()
    return float(abs(score - padded[0, 0].item()) / (1 + abs(score)))


def _tiny_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a narrow and shallow model; if that fails, a shallow one that is small enough."""
    reasons = []
    for shrink in (_make_narrow, _make_shallow):
        try:
            tiny = _resize(config, shrink)
            architecture: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(tiny)]
            with torch.device("meta"):
                size = architecture(tiny).num_parameters()
            if size > _MAX_PARAMETERS:
                raise NoTinyModelError(f"it still has {size} parameters")
            torch.manual_seed(0)
            model: PreTrainedModel = architecture(tiny).float().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(_GAIN)
            _shift(model)
            return model
        except (NoTinyModelError, *UNSUPPORTED_ERRORS) as error:
            reasons.append(str(error))
    raise NoTinyModelError("; ".join(reasons))


def _resize(config: PreTrainedConfig, shrink: Callable[[dict[str, Any]], None]) -> PreTrainedConfig:
    values = config.to_dict()
    shrink(values)
    for part in values.values():
        if isinstance(part, dict) and any(depth in part for depth in _DEPTHS):
            shrink(part)
    values["num_labels"] = 1
    return type(config).from_dict(values)


def _make_narrow(values: dict[str, Any]) -> None:
    _make_shallow(values)
    for size, names in _WIDTHS.items():
        for name in names:
            if isinstance(values.get(name), int):
                values[name] = min(size, values[name])


def _make_shallow(values: dict[str, Any]) -> None:
    """Keep two layers, or one of each kind when layers differ."""
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
            values[name] = min(values[name], _VOCABULARY - 1)
    values["pad_token_id"] = _PAD
