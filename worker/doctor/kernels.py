"""Checks of the attention kernels that packed rows use on a GPU."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from worker.reward_model.packed_attention import has_grouped_kernel
from worker.supervisor.check_results import require

HEAD_DIMS, GROUPS, WINDOWS = (64, 80, 128, 256), (1, 4, 8), (None, 48)
LENGTHS = [200, 57, 130]
#: The variable-length kernel's error against float32 may be this many times that of stock SDPA.
MAX_ERROR_RATIO = 2.0


def variable_length_attention(device: str) -> str:
    """Compare forward and backward of the variable-length kernel with float32, and with SDPA."""
    worst = 0.0
    for head_dim, groups, window in itertools.product(HEAD_DIMS, GROUPS, WINDOWS):
        ratio = _error_ratio(device, head_dim, groups, window)
        case = f"head_dim {head_dim}, {groups} query heads per key head, window {window}"
        require(ratio <= MAX_ERROR_RATIO, f"{case}: {ratio:.2f} × the error of SDPA")
        worst = max(worst, ratio)
    return f"error at most {worst:.2f} × that of SDPA in bfloat16, of {MAX_ERROR_RATIO:.0f} ×"


def memory_of_float32_attention(device: str) -> str:
    """Check that float32 attention with grouped heads stores no scores: memory grows linearly."""
    peaks = []
    for length in (2048, 8192):
        query = torch.randn(1, 16, length, 128, device=device)
        key = torch.randn(1, 4, length, 128, device=device)
        if not has_grouped_kernel(query, is_masked=False):
            key = key.repeat_interleave(4, dim=1)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=key.shape[1] != 16)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    ratio = peaks[1] / max(1, peaks[0])
    return require(ratio < 6, f"4 × the tokens take {ratio:.1f} × the memory, of 6 ×")


def _error_ratio(device: str, head_dim: int, groups: int, window: int | None) -> float:
    torch.manual_seed(0)
    total, key_heads = sum(LENGTHS), 2
    query = torch.randn(total, key_heads * groups, head_dim, device=device)
    key, value = torch.randn(2, total, key_heads, head_dim, device=device)
    upstream = torch.randn_like(query)
    half: list[Any] = [x.bfloat16().requires_grad_() for x in (query, key, value)]
    offsets = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32, device=device)
    ours = varlen.varlen_attn(
        half[0],
        half[1],
        half[2], offsets, offsets, max(LENGTHS), max(LENGTHS),
        window_size=(-1 if window is None else window - 1, 0), enable_gqa=groups > 1,
    )  # fmt: skip
    assert isinstance(ours, Tensor)
    found = [ours, *torch.autograd.grad(ours, half, upstream.bfloat16())]
    exact = _reference([x.detach().float().requires_grad_() for x in half], upstream, window)
    stock = _reference([x.detach().clone().requires_grad_() for x in half], upstream, window)
    return max(_distance(a, e) / max(_distance(s, e), 1e-6)
               for a, s, e in zip(found, stock, exact, strict=True))  # fmt: skip


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def _reference(inputs: list[Tensor], upstream: Tensor, window: int | None) -> list[Tensor]:
    """Return output and gradients of SDPA, segment by segment, in the dtype of the inputs."""
    parts = []
    for query, key, value in zip(*(torch.split(x, LENGTHS) for x in inputs), strict=True):
        length = len(query)
        allowed = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if window is not None:
            allowed = allowed.triu(1 - window)
        repeats = query.shape[1] // key.shape[1]
        k, v = (x.transpose(0, 1).repeat_interleave(repeats, dim=0) for x in (key, value))
        parts.append(
            scaled_dot_product_attention(query.transpose(0, 1), k, v, attn_mask=allowed)
            .transpose(0, 1)
        )  # fmt: skip
    output = torch.cat(parts)
    return [output, *torch.autograd.grad(output, inputs, upstream.to(output.dtype))]
