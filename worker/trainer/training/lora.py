"""Put the plan's LoRA adapter around a base model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from app.domain.plan import TrainingPlan


def add_lora(base: PreTrainedModel, plan: TrainingPlan) -> PeftModel:
    """Return the base model with the plan's adapter; trainable parameters, the head too, in fp32.

    The base model's own dropout is turned off: GPT-2 and BERT have 0.1 in each layer, which adds
    noise to both rewards of a pair.
    """
    _disable_dropout(base)
    model = get_peft_model(base, LoraConfig(**plan.lora_kwargs()))
    for _, parameter in trainable_parameters(model):
        parameter.data = parameter.data.float()  # in bf16, small updates are rounded to zero
    return model


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield names and parameters that the optimiser updates."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def parameter_digests(model: nn.Module) -> dict[str, str]:
    """Return the digests of the trainable parameters."""
    return {
        name: hashlib.sha256(p.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, p in trainable_parameters(model)
    }


def base_parameter_name(name: str) -> str:
    """Return the name in the base model of a parameter of the model with the adapter."""
    return name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")


def _disable_dropout(model: PreTrainedModel) -> None:
    """Set every dropout to 0.

    TRL's option finds only nn.Dropout, and disables LoRA's dropout as well. StarCoder 2 stores the
    probability in its layers, Falcon reads its configuration at every call.
    """
    for holder in (model.config.get_text_config(), *model.modules()):
        if isinstance(holder, nn.Dropout):
            holder.p = 0.0
        for attribute, value in vars(holder).items():
            if "drop" in attribute and isinstance(value, float):
                setattr(holder, attribute, 0.0)
