"""Static check: can this model be trained on packed rows?"""

from typing import Any

from peft import PeftModel, PeftType
from torch import nn
from transformers import PreTrainedModel
from transformers.training_args import OptimizerNames
from trl.trainer.reward_config import RewardConfig

from worker.reward_model.packed_model import unwrap_peft
from worker.reward_model.packed_support import decoder_reason

STEPS_IN_BACKWARD = {OptimizerNames.LOMO, OptimizerNames.ADALOMO}


def unsupported_reason(model: PreTrainedModel | PeftModel, args: RewardConfig) -> str | None:
    """Return why the model cannot be trained on packed rows with these arguments, if known.

    ``model`` is the one that RewardTrainer trains, with its adapters. Call it after the trainer has
    been built, because that disables dropout. None does not mean that packed rows work:
    ``check_parity`` runs the model.
    """
    decoder = unwrap_peft(model)
    return (
        arguments_reason(args)
        or _adapter_reason(model)
        or decoder_reason(decoder)
        or dropout_reason(decoder)
    )


def arguments_reason(args: RewardConfig) -> str | None:
    """Return which of the arguments needs the model's own code in one process, if any."""
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


def dropout_reason(model: nn.Module) -> str | None:
    """Reject dropout: both sequences would share one mask for their prefix, unlike in TRL."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return f"dropout is active: {name} ({module.p})"
        for attribute, value in vars(module).items():
            is_noise = "dropout" in attribute or "jitter" in attribute
            if is_noise and isinstance(value, float) and value > 0:
                return f"dropout is active: {name}.{attribute} ({value})"
    return None
