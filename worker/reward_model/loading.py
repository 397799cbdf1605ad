"""The base model on its device, and the adapter around it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, PreTrainedModel

from app.domain.lifecycle import FailureCode
from app.domain.paths import is_inside
from app.domain.plan import TrainingPlan
from worker.reward_model.errors import TrainerError

#: A container's memory limit, by cgroup version; "max" or a huge number where there is none.
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class DeviceConfig:
    """Where and in what numbers a model runs."""

    device: str  # "cpu" or "cuda"
    bf16: bool  # base weights in bfloat16 and autocast; else fp32 throughout
    quantization: str = "none"

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights; the trained ones are always fp32."""
        return torch.bfloat16 if self.bf16 else torch.float32


def device_config_for(plan: TrainingPlan) -> DeviceConfig:
    """What this machine can do of what the plan asks.

    Raises:
        TrainerFailure: quantization_unavailable.
    """
    device = "cuda" if plan.gpus and torch.cuda.is_available() else "cpu"
    if plan.quantization != "none":
        _require_quantization(plan.quantization, device)
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = plan.precision == "bf16" or (plan.precision == "auto" and has_bf16)
    return DeviceConfig(device, bf16, plan.quantization)


def memory_bytes(device: str, limit: int | None = None) -> int:
    """What the device has in all; of a machine what its container, or ``limit``, leaves of it."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit] if limit is not None else []
    for path in CGROUP_LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def load_base(
    model_dir: str, numerics: DeviceConfig, head_modules: Collection[str]
) -> PreTrainedModel:
    """The checkpoint as a one-label sequence classifier; what it lacks is drawn from the seed.

    Raises:
        TrainerFailure: model_unsupported when anything but ``head_modules`` would be random.
    """
    more: dict[str, Any] = {}
    if numerics.device == "cuda":
        more["device_map"] = {"": 0}
    if numerics.quantization != "none":
        more["quantization_config"] = quantization_config(numerics, head_modules)
    loaded: tuple[PreTrainedModel, dict[str, Any]] = (
        AutoModelForSequenceClassification.from_pretrained(
            model_dir,
            num_labels=1,
            dtype=numerics.dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **more,
        )
    )
    model, info = loaded
    new = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    stray = sorted(key for key in new if not is_inside(key, head_modules))
    if stray:
        raise TrainerError(
            FailureCode.MODEL_UNSUPPORTED,
            f"the checkpoint lacks {', '.join(stray[:5])}, which the plan does not train: those "
            "weights would be random and lost",
        )
    model.config.get_text_config().use_cache = False
    return model


def wrap(base: PreTrainedModel, plan: TrainingPlan) -> PeftModel:
    """The base model with the plan's LoRA; trainable parameters in fp32, the head among them.

    Its own dropout is off: to a pair it is noise on either side, 0.1 a layer in GPT-2 and BERT.
    """
    lora, _ = plan.kwargs()
    _turn_dropout_off(base)
    model = get_peft_model(base, LoraConfig(**lora))
    for _, parameter in trainable(model):
        parameter.data = parameter.data.float()  # in bf16 a small step is no step at all
    return model


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that the optimiser moves."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def plain_name(name: str) -> str:
    """A parameter's name in the base model, of its name in the wrapped one."""
    return name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")


def quantization_config(
    numerics: DeviceConfig, head_modules: Collection[str]
) -> BitsAndBytesConfig:
    """8 or 4 bits for everything but the head, which is trained."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        **quantization_arguments(numerics, head_modules)
    )


def quantization_arguments(numerics: DeviceConfig, head_modules: Collection[str]) -> dict[str, Any]:
    """Those of the configuration; the model card spells them out."""
    if numerics.quantization == "8bit":
        bits: dict[str, Any] = {"load_in_8bit": True}
    else:
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": numerics.dtype,
        }
    # Giving the list replaces the default one, so the head and lm_head are both named.
    return {**bits, "llm_int8_skip_modules": [*head_modules, "lm_head"]}


def _turn_dropout_off(model: PreTrainedModel) -> None:
    """TRL's way finds nn.Dropout alone, and LoRA's as well.

    StarCoder 2 keeps plain numbers in its layers, Falcon reads its configuration at every call.
    """
    for holder in (model.config.get_text_config(), *model.modules()):
        if isinstance(holder, nn.Dropout):
            holder.p = 0.0
        for attribute, value in vars(holder).items():
            if "drop" in attribute and isinstance(value, float):
                setattr(holder, attribute, 0.0)


def _require_quantization(quantization: str, device: str) -> None:
    if device != "cuda":
        raise TrainerError(
            FailureCode.QUANTIZATION_UNAVAILABLE,
            f"{quantization} quantisation needs a CUDA GPU, and this worker trains on its CPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainerError(
            FailureCode.QUANTIZATION_UNAVAILABLE,
            f"{quantization} quantisation needs bitsandbytes; the operator can install "
            "plaudit[quantization] on this worker",
        )
