"""LoRA of several adapters in one packed row, for which the base model computes only once.

PEFT can mix adapters with ``adapter_names``, but only one adapter per row of a batch. It also uses
the original random head if the active adapter is not among the adapters of the batch. Here each
adapter applies to its own part of the row, and an adapter without a head is an error.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn.functional import silu

from worker.reward_model.fused_layers import FusedLayers
from worker.reward_model.packed_attention import current_pass


@dataclass(frozen=True)
class AdapterSpan:
    """The part of a row that belongs to an adapter: ranges of tokens and of rewards."""

    adapter: str
    tokens: slice
    rewards: slice


class NotGroupableError(ValueError):
    """The model calls an adapted layer with an input that is not the tokens of the row."""


# A module global, like the current pass: scoring happens in one thread.
_spans: Sequence[AdapterSpan] | None = None


@contextmanager
def grouped_adapters(spans: Sequence[AdapterSpan]) -> Iterator[None]:
    """Make the patched layers apply each adapter to its span. The spans must cover the row."""
    global _spans
    _spans = spans
    try:
        yield
    finally:
        _spans = None


def patch_layers(model: PeftModel) -> None:
    """Patch the model's LoRA layers for ``grouped_adapters``; skip layers patched before.

    MLPs with the code of Llama's compute in place. After that, the model cannot be trained.
    """
    for module in model.modules():
        if _is_lora_linear(module) and "forward" not in vars(module):
            module.forward = types.MethodType(_forward, module)
    for mlp in FusedLayers.of(model).mlps:
        mlp.forward = types.MethodType(_swiglu, mlp)


def grouping_problem(model: PeftModel, adapter: str, head_modules: Sequence[str]) -> str | None:
    """Return why the adapter cannot share a row with others, or None if it can."""
    config: Any = model.peft_config[adapter]
    if config.use_dora or config.bias != "none" or getattr(config, "lora_bias", False):
        return "it is not plain LoRA"
    for name, module in model.named_modules():
        is_other_lora = isinstance(module, LoraLayer) and not _is_lora_linear(module)
        if is_other_lora and adapter in {*module.lora_A, *module.lora_embedding_A}:
            return f"{name} is not a linear layer"
        is_saved = isinstance(module, AuxiliaryTrainingWrapper) and adapter in module._adapters
        if is_saved and [name.removeprefix("base_model.model.")] != list(head_modules):
            return f"{name} is trained in full"
    return None


def grouped_head(head: nn.Module, hidden: Tensor, spans: Sequence[AdapterSpan]) -> Tensor:
    """Return the rewards [N] of hidden states [1, N, hidden], each from the head of its adapter."""
    if not isinstance(head, ModulesToSaveWrapper):
        raise NotGroupableError("the reward head belongs to no adapter")
    parts = [head.modules_to_save[span.adapter](hidden[:, span.rewards]) for span in spans]
    return torch.cat(parts, dim=1).float().view(-1)


def _is_lora_linear(module: Any) -> bool:
    """Return whether a module is a linear LoRA layer, plain or quantised."""
    return isinstance(module, LoraLinear) or (
        isinstance(module, LoraLayer) and type(module).__name__.startswith("Linear")
    )


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Forward of a patched LoRA layer: the base layer once, then each adapter on its span."""
    if _spans is None:
        output: Tensor = type(self).forward(self, x, *args, **kwargs)
        return output
    is_trimmed = current_pass().is_trimmed
    bounds = [span.rewards if is_trimmed else span.tokens for span in _spans]
    if x.ndim != 3 or x.shape[:2] != (1, bounds[-1].stop):
        raise NotGroupableError(f"a layer is called with {tuple(x.shape)}")
    result: Tensor = self.base_layer(x, *args, **kwargs)
    for span, part in zip(_spans, bounds, strict=True):
        if span.adapter not in self.lora_A:
            continue
        down, up = self.lora_A[span.adapter].weight, self.lora_B[span.adapter].weight
        low = x[0, part].to(down.dtype) @ down.T
        scale = self.scaling[span.adapter]
        if result.dtype == up.dtype:
            result[0, part].addmm_(low, up.T, alpha=scale)
        else:
            result[0, part] += (low @ up.T * scale).to(result.dtype)
    return result


def _swiglu(self: Any, x: Tensor) -> Tensor:
    """Forward of a patched Llama MLP: the same bits, with two large tensors less."""
    gate = silu(self.gate_proj(x), inplace=True)
    output: Tensor = self.down_proj(gate.mul_(self.up_proj(x)))
    return output
