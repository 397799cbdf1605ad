"""Load a base model as a sequence classifier with one output, on its device and in its dtype."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, PreTrainedModel

from app.domain.lifecycle import FailureCode
from app.domain.paths import is_inside
from app.domain.plan import TrainingPlan
from app.domain.training_spec import BitsAndBytesOptimizer
from worker.reward_model.errors import TrainerError
from worker.reward_model.mixed_precision import use_float32_head
from worker.reward_model.model_config import load_config


@dataclass(frozen=True)
class DeviceConfig:
    """Device and number formats of a model."""

    device: str  # "cpu" or "cuda"
    bf16: bool  # frozen weights in bfloat16 and autocast; otherwise float32 throughout
    quantization: str = "none"  # or "8bit" or "4bit"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights; trainable ones are always float32."""
        return torch.bfloat16 if self.bf16 else torch.float32


def device_config_for(plan: TrainingPlan) -> DeviceConfig:
    """Choose the device and number formats for a plan on this machine.

    Raises:
        TrainerError: quantization_unavailable; cuda_error if this process was given a GPU that
            CUDA cannot use, such as with a driver that is too old for torch's version of CUDA.
    """
    if plan.gpus and (problem := unusable_gpu()):
        raise TrainerError(FailureCode.CUDA_ERROR, problem)
    device = "cuda" if plan.gpus and torch.cuda.is_available() else "cpu"
    if plan.quantization != "none":
        _require_quantization(f"{plan.quantization} quantisation", device)
    if (optimizer := plan.reward_arguments.optim) in get_args(BitsAndBytesOptimizer):
        _require_quantization(f"the optimiser {optimizer}", device)
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = plan.precision == "bf16" or (plan.precision == "auto" and has_bf16)
    return DeviceConfig(device, bf16, plan.quantization)


def unusable_gpu() -> str | None:
    """Return why CUDA cannot use the GPU of this process, or None if it can or has no GPU.

    A supervisor names a trainer's GPU by its UUID.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not given.startswith(("GPU-", "MIG-")) or torch.cuda.is_available():
        return None
    problem = "it lists no device"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:  # a build without CUDA; no driver or an old one
        problem = str(error)
    return (
        f"this worker has a GPU, but CUDA cannot use it: {problem}. Check the driver with "
        "nvidia-smi and `plaudit doctor`"
    )


def load_base(
    model_dir: str, device_config: DeviceConfig, head_modules: Collection[str]
) -> PreTrainedModel:
    """Load the base model; modules that its files lack are initialised at random.

    Raises:
        TrainerError: model_unsupported if a weight outside ``head_modules`` would be random.
    """
    model, new = load_classifier(model_dir, device_config, head_modules)
    stray = sorted(key for key in new if not is_inside(key, head_modules))
    if stray:
        raise TrainerError(
            FailureCode.MODEL_UNSUPPORTED,
            f"the base model's files lack {', '.join(stray[:5])}, and the plan does not train "
            "them: these weights would be random and would not be saved",
        )
    return model


def load_classifier(
    model_dir: str,
    device_config: DeviceConfig,
    head_modules: Collection[str],
    *,
    ignore_mismatched_sizes: bool = True,
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model and return it with the keys of the parameters that its files lack.

    With ``ignore_mismatched_sizes``, parameters of another shape count as missing.
    ``head_modules`` are neither quantised nor computed in bfloat16.
    """
    more: dict[str, Any] = {}
    if device_config.device == "cuda":
        more["device_map"] = {"": 0}
    if device_config.quantization != "none":
        more["quantization_config"] = quantization_config(device_config, head_modules)
    loaded: tuple[PreTrainedModel, dict[str, Any]] = (
        AutoModelForSequenceClassification.from_pretrained(
            model_dir,
            config=load_config(model_dir),
            dtype=device_config.dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            output_loading_info=True,
            **more,
        )
    )
    model, info = loaded
    model.config.get_text_config().use_cache = False
    if device_config.bf16:
        use_float32_head(model, head_modules)
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def quantization_config(
    device_config: DeviceConfig, head_modules: Collection[str]
) -> BitsAndBytesConfig:
    """Return the configuration that quantises all linear layers except the trained head."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        **quantization_arguments(device_config, head_modules)
    )


def quantization_arguments(
    device_config: DeviceConfig, head_modules: Collection[str]
) -> dict[str, Any]:
    """Return the arguments of ``BitsAndBytesConfig``, which the model card also shows."""
    if device_config.quantization == "8bit":
        bits: dict[str, Any] = {"load_in_8bit": True}
    else:
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": device_config.dtype,
        }
    # The list replaces the default one, which contains lm_head.
    return {**bits, "llm_int8_skip_modules": [*head_modules, "lm_head"]}


def _require_quantization(what: str, device: str) -> None:
    if device != "cuda":
        raise TrainerError(
            FailureCode.QUANTIZATION_UNAVAILABLE,
            f"{what} needs a CUDA GPU, and this worker trains on its CPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainerError(
            FailureCode.QUANTIZATION_UNAVAILABLE,
            f"{what} needs bitsandbytes; the operator can install "
            "plaudit[quantization] on this worker",
        )
