"""Liger's fused kernels in the layers of a decoder, on GPUs of workers that have liger-kernel.

RMSNorm, rotary positions and SwiGLU are several kernels each in transformers, and one in Liger. A
module takes a fused kernel only if its code is that of Llama's, whatever its class is called, so
that variants (Gemma's RMSNorm, Cohere's rotary positions) keep their own code.

The kernels are in place only within ``use_fused_layers``: scoring outside of it, which others
compare with, computes as transformers does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama

ROTARY, HALF = "apply_rotary_pos_emb", "rotate_half"
LIGER = "liger-kernel"


def fused_kernels(device: torch.device) -> str | None:
    """Return name and version of the fused kernels for ``device``, or None if there are none.

    They are written in Triton, which has no kernels for a CPU.
    """
    if device.type != "cuda" or find_spec("liger_kernel") is None:
        return None
    return f"{LIGER} {version(LIGER)}"


@dataclass(frozen=True)
class FusedLayers:
    """The parts of a decoder that have a fused kernel."""

    norms: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    #: Modules of transformers whose layers call the rotary function by its global name.
    rotary: tuple[ModuleType, ...]

    @classmethod
    def of(cls, decoder: nn.Module) -> FusedLayers:
        """Find the parts of ``decoder`` whose code is Llama's."""
        norms, mlps = [], []
        names: dict[str, None] = {}
        for module in decoder.modules():
            forward = type(module).forward
            if _is_same_code(forward, modeling_llama.LlamaRMSNorm.forward):
                norms.append(module)
            elif _is_same_code(forward, modeling_llama.LlamaMLP.forward) and isinstance(
                module.act_fn, nn.SiLU | SiLUActivation
            ):
                mlps.append(module)
            names[type(module).__module__] = None
        rotary = [sys.modules[name] for name in names if _has_rotary(sys.modules[name])]
        return cls(tuple(norms), tuple(mlps), tuple(rotary))


@contextmanager
def use_fused_layers(layers: FusedLayers) -> Iterator[None]:
    """Compute these parts with Liger's kernels.

    The backward must run inside the context too if it computes layers again. The process must not
    run another model of the family at the same time: it would use the rotary kernel as well.
    """
    from liger_kernel.transformers import functional

    originals = [(module, getattr(module, ROTARY)) for module in layers.rotary]
    try:
        for norm in layers.norms:
            norm.forward = partial(_normalise, functional, norm)
        for mlp in layers.mlps:
            mlp.forward = partial(_swiglu, functional, mlp)
        for module, original in originals:
            setattr(module, ROTARY, partial(_rotate, functional, original))
        yield
    finally:
        for changed in (*layers.norms, *layers.mlps):
            changed.__dict__.pop("forward", None)
        for module, original in originals:
            setattr(module, ROTARY, original)


def _normalise(kernels: Any, norm: Any, hidden_states: Tensor) -> Tensor:
    # In place, the kernel would write into a gradient that a residual connection may share.
    normed: Tensor = kernels.liger_rms_norm(
        hidden_states, norm.weight, norm.variance_epsilon, in_place=False
    )
    return normed


def _swiglu(kernels: Any, mlp: Any, x: Tensor) -> Tensor:
    output: Tensor = mlp.down_proj(kernels.liger_swiglu(mlp.gate_proj(x), mlp.up_proj(x)))
    return output


def _rotate(
    kernels: Any,
    original: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    *angles: Tensor,
    **arguments: Any,
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys [B, heads, T, D]; calls of another form keep the model's function."""
    if arguments or len(angles) != 2:
        return original(q, k, *angles, **arguments)
    rotated: tuple[Tensor, Tensor] = kernels.liger_rope(q, k, *angles)[:2]
    return rotated


def _has_rotary(module: ModuleType) -> bool:
    return all(
        _is_same_code(getattr(module, name, None), getattr(modeling_llama, name))
        for name in (ROTARY, HALF)
    )


def _is_same_code(function: Any, expected: Any) -> bool:
    """Whether two functions have the same body; docstrings and annotations may differ."""
    a, b = (getattr(f, "__code__", None) for f in (function, expected))
    if a is None or b is None:
        return False
    return (a.co_code, a.co_names, a.co_varnames) == (b.co_code, b.co_names, b.co_varnames) and (
        _constants(function) == _constants(expected)
    )


def _constants(function: Any) -> list[Any]:
    return [c for c in function.__code__.co_consts if c != function.__doc__]
