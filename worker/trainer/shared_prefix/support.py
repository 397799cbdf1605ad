"""Static check: can this model be trained on packed rows?"""

import inspect
from typing import Any

from peft import PeftModel, PeftType
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.training_args import OptimizerNames
from trl.trainer.reward_config import RewardConfig

from worker.reward_model.packed_model import causal_attentions, unwrap_peft

#: Rotary embeddings whose angles depend on a token's position alone. Those of "dynamic" and
#: "longrope" depend on the length of the row, and a packed row is longer than its sequences.
POSITION_ONLY_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
STEPS_IN_BACKWARD = {OptimizerNames.LOMO, OptimizerNames.ADALOMO}
PLAIN_LAYER_TYPES = {"full_attention", "sliding_attention"}


def unsupported_reason(model: PreTrainedModel | PeftModel, args: RewardConfig) -> str | None:
    """Return why the model cannot be trained on packed rows with these arguments, if known.

    ``model`` is the one that RewardTrainer trains, with its adapters. Call it after the trainer has
    been built, because that disables dropout. None does not mean that packed rows work:
    ``check_parity`` runs the model.
    """
    return _arguments_reason(args) or _adapter_reason(model) or _decoder_reason(unwrap_peft(model))


def _arguments_reason(args: RewardConfig) -> str | None:
    if args.world_size > 1 or args.n_gpu > 1:
        return "training uses several processes or several devices"
    unsupported: dict[str, Any] = {
        "torch_compile": args.torch_compile,
        "activation_offloading": args.activation_offloading,
        "neftune_noise_alpha": args.neftune_noise_alpha,
        "deepspeed": args.deepspeed,
        "fsdp": args.fsdp,
        "an optimiser that steps inside the backward": args.optim in STEPS_IN_BACKWARD,
    }
    requested = [name for name, value in unsupported.items() if value]
    return f"the arguments request {requested[0]}" if requested else None


def _adapter_reason(model: PreTrainedModel | PeftModel) -> str | None:
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "the model is split across devices"
    if not isinstance(model, PeftModel):
        return None
    for config in model.peft_config.values():
        if config.is_prompt_learning or config.peft_type != PeftType.LORA:
            return f"adapters of type {config.peft_type} may mix tokens of a row"
        if getattr(config, "alora_invocation_tokens", None):
            return "activated LoRA depends on earlier tokens of a row"
    return None


def _decoder_reason(model: PreTrainedModel) -> str | None:
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
    return _config_reason(config) or _dropout_reason(model)


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


def _dropout_reason(model: nn.Module) -> str | None:
    """Refuse dropout: both sequences would share one mask over their prefix, stock draws two."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return f"dropout is active: {name} ({module.p})"
        for attribute, value in vars(module).items():
            is_noise = "dropout" in attribute or "jitter" in attribute
            if is_noise and isinstance(value, float) and value > 0:
                return f"dropout is active: {name}.{attribute} ({value})"
    return None
