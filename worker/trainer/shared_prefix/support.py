"""What can be known without running the model: may its pairs share a prefix?"""

import inspect
from typing import Any

from peft import PeftModel, PeftType
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.training_args import OptimizerNames
from trl.trainer.reward_config import RewardConfig

from worker.reward_model.packed_model import base_model, causal_attentions

# Rotary embeddings whose angles depend on a token's position alone. "dynamic" and "longrope" change
# with the length of the row, and a packed row is longer than its replies.
POSITION_ONLY_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
STEPS_IN_BACKWARD = {OptimizerNames.LOMO, OptimizerNames.ADALOMO}
PLAIN_LAYER_TYPES = {"full_attention", "sliding_attention"}


def unsupported_reason(model: PreTrainedModel | PeftModel, args: RewardConfig) -> str | None:
    """Why this model cannot be trained on packed rows with these arguments, if anything is known.

    The model is what RewardTrainer trains, adapters and all: ask after the trainer has been built,
    as it turns dropout off. A None is a maybe: `probe` runs the model.
    """
    return _arguments_reason(args) or _adapter_reason(model) or _decoder_reason(base_model(model))


def _arguments_reason(args: RewardConfig) -> str | None:
    if args.world_size > 1 or args.n_gpu > 1:
        return "training runs in several processes or on several devices"
    unsupported: dict[str, Any] = {
        "torch_compile": args.torch_compile,
        "activation_offloading": args.activation_offloading,
        "neftune_noise_alpha": args.neftune_noise_alpha,
        "deepspeed": args.deepspeed,
        "fsdp": args.fsdp,
        "an optimiser that steps inside the backward": args.optim in STEPS_IN_BACKWARD,
    }
    asked = [name for name, value in unsupported.items() if value]
    return f"the arguments ask for {asked[0]}" if asked else None


def _adapter_reason(model: PreTrainedModel | PeftModel) -> str | None:
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "the model is split across devices"
    if not isinstance(model, PeftModel):
        return None
    for config in model.peft_config.values():
        if config.is_prompt_learning or config.peft_type != PeftType.LORA:
            return f"adapters of type {config.peft_type} may work across a whole row"
        if getattr(config, "alora_invocation_tokens", None):
            return "activated LoRA switches on within a row"
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
        return f"{name} does not let its attention be chosen"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return f"{name} takes no positions, which have to start again after a prefix"
    if config.pad_token_id is None:
        return f"{name} has no padding token, so its rewards are read at the end of a row"
    found, expected = len(causal_attentions(decoder)), config.num_hidden_layers
    if found != expected:
        return f"{name} has {found} causal attention modules in {expected} layers"
    return _config_reason(config) or _dropout_reason(model)


def _config_reason(config: PretrainedConfig) -> str | None:
    odd = set(getattr(config, "layer_types", None) or ()) - PLAIN_LAYER_TYPES
    if odd:
        return f"layers of type {sorted(odd)[0]} carry state along a row"
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    for parameters in by_layer_type:
        rope_type = parameters.get("rope_type", "default")
        if rope_type not in POSITION_ONLY_ROPE:
            return f"rotary positions of type {rope_type} depend on the length of a row"
    return None


def _dropout_reason(model: nn.Module) -> str | None:
    """Both replies would share one mask over their prefix, which stock training draws twice."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return f"dropout is in use: {name} ({module.p})"
        for attribute, value in vars(module).items():
            is_noise = "dropout" in attribute or "jitter" in attribute
            if is_noise and isinstance(value, float) and value > 0:
                return f"dropout is in use: {name}.{attribute} ({value})"
    return None
