"""Check statically whether sequences of a model can be packed into one row."""

import inspect

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from worker.reward_model.packed_model import causal_attentions

#: Rotary embeddings whose angles depend only on a token's position. Those of "dynamic" and
#: "longrope" depend on the length of the row, and a packed row is longer than its sequences.
POSITION_ONLY_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
PLAIN_LAYER_TYPES = {"full_attention", "sliding_attention"}


def decoder_reason(model: PreTrainedModel) -> str | None:
    """Return why sequences of a model cannot be packed into one row, or None if they may be."""
    name = type(model).__name__
    decoder = getattr(model, model.base_model_prefix, None)
    if not isinstance(decoder, PreTrainedModel) or not isinstance(
        getattr(model, "score", None), nn.Module
    ):
        return f"{name} is not a causal decoder with a reward head"
    config = decoder.config.get_text_config()
    if config.is_encoder_decoder or not getattr(config, "is_causal", True):
        return f"{name} does not attend causally"
    if not decoder._supports_attention_backend:
        return f"{name} does not support other attention functions"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return f"{name} takes no position ids, which must start again after a prefix"
    if config.pad_token_id is None:
        return f"{name} has no padding token, so that rewards are read at the end of the row"
    found, expected = len(causal_attentions(decoder)), config.num_hidden_layers
    if found != expected:
        return f"{name} has {found} causal attention modules in {expected} layers"
    return _config_reason(config)


def _config_reason(config: PretrainedConfig) -> str | None:
    stateful = set(getattr(config, "layer_types", None) or ()) - PLAIN_LAYER_TYPES
    if stateful:
        return f"layers of type {sorted(stateful)[0]} carry state along a row"
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    for parameters in by_layer_type:
        rope_type = parameters.get("rope_type", "default")
        if rope_type not in POSITION_ONLY_ROPE:
            return f"rotary embeddings of type {rope_type} depend on the length of the row"
    return None
