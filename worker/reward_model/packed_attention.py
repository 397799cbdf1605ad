"""Attention over a packed row: branches and pairs are kept apart, a prefix is computed once.

Each pair makes two ordinary causal segments, aligned at the bottom right: queries [P C] on keys
[P C], and queries [R] on keys [P R]. The function is reached through transformers' attention
interface, so it works for every model whose attention goes through that.

On CUDA in half precision a layer is one variable-length call, with one gather of keys and values,
which copies the prefixes only. Elsewhere each segment is one call of torch's fused attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig

from worker.reward_model.packed_layout import PackedRow, Segments

ATTENTION_NAME = "plaudit_shared_prefix"
MAX_VARLEN_HEAD = 256
_IS_ROCM = torch.version.hip is not None


class KeysAndValuesTakenError(Exception):
    """Leaves a layer's forward once its attention has handed over keys and values."""


@dataclass
class PackedPass:
    """One forward over a packed row, and the backward that may compute it again."""

    row: PackedRow
    seen: set[nn.Module] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)
    is_taking: bool = False
    taken: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    takes_varlen: bool = True
    segments: dict[bool, Segments] = field(default_factory=dict)


# A plain slot and not thread-local: on CUDA, checkpointing computes again in another thread.
_running: PackedPass | None = None


@contextmanager
def packed_attention(
    configs: Sequence[PretrainedConfig], row: PackedRow, *, takes_varlen: bool = True
) -> Iterator[PackedPass]:
    """Send every attention of the models with these configurations through the packed row.

    Keep the backward inside when checkpointing is on: it calls the attention again.
    """
    global _running
    AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
    before = [config._attn_implementation for config in configs]
    _running = PackedPass(row, takes_varlen=takes_varlen)
    try:
        for config in configs:
            config._attn_implementation_internal = ATTENTION_NAME
        yield _running
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        _running = None


def running_pass() -> PackedPass:
    """The pass that is under way; RuntimeError when there is none."""
    if _running is None:
        raise RuntimeError("packed attention was called outside of a packed pass")
    return _running


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_rest: Any,
) -> tuple[Tensor, None]:
    """Attend within the segments of the running pass's row.

    query [1, H, T, D], key and value [1, K, T, D] with K dividing H → [1, T, H, D]. In a layer
    whose keys and values were taken before, the queries are the 2B that rewards are read at.
    """
    current = running_pass()
    current.seen.add(module)
    if attention_mask is not None or position_bias is not None:
        raise ValueError("packed attention takes no mask and no position bias")
    if sliding_window is not None:
        current.windows.add(sliding_window)
    if current.is_taking:
        current.taken[module] = key, value
        raise KeysAndValuesTakenError
    only_rewards = module in current.taken
    if only_rewards:
        key, value = current.taken[module]

    if current.takes_varlen and softcap is None and s_aux is None and has_varlen(query):
        return _attend_varlen(current, query, key, value, scaling, sliding_window, only_rewards)
    result_dtype = value.dtype
    # CPU kernels for bfloat16 are slower than those for float32.
    in_float32 = query.device.type == "cpu" and value.dtype != torch.float32
    if in_float32:
        query, key, value = query.float(), key.float(), value.float()
    lengths = [n for p, c, r in current.row.lengths for n in (p + c, r)]
    one_each = [1] * len(lengths)
    queries = query.split_with_sizes(one_each if only_rewards else lengths, dim=2)
    keys = key.split_with_sizes(lengths, dim=2)
    values = value.split_with_sizes(lengths, dim=2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if sliding_window is not None and q.shape[2] == 1:
            k, v = k[:, :, -sliding_window:], v[:, :, -sliding_window:]
        if softcap is not None or s_aux is not None:
            mask = _mask(current, q, k.shape[2], sliding_window)
            return _attend_eagerly(q, k, v, mask, scaling, softcap, s_aux)
        is_plain = sliding_window is None or k.shape[2] <= sliding_window
        is_causal = is_plain and q.shape[2] == k.shape[2] and q.shape[2] > 1
        mask = None if is_causal else _mask(current, q, k.shape[2], sliding_window)
        groups = q.shape[1] // k.shape[1]
        if mask is not None and q.is_cuda:  # no CUDA kernel takes a mask and grouped heads at once
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=is_causal,
            scale=scaling,
            enable_gqa=k.shape[1] != q.shape[1],
        )

    outputs: list[Tensor] = []
    with torch.autocast(query.device.type, enabled=False) if in_float32 else nullcontext():
        for pair, (prefix, _, _) in enumerate(current.row.lengths):
            whole, tail = 2 * pair, 2 * pair + 1
            outputs.append(attend(queries[whole], keys[whole], values[whole]))
            if not queries[tail].shape[2]:
                continue  # the rejected reply is a prefix of the chosen one
            k, v = keys[tail], values[tail]
            if prefix:
                k = torch.cat((keys[whole][:, :, :prefix], k), dim=2)
                v = torch.cat((values[whole][:, :, :prefix], v), dim=2)
            outputs.append(attend(queries[tail], k, v))
    return torch.cat([o.transpose(1, 2) for o in outputs], dim=1).to(result_dtype), None


def has_varlen(query: Tensor) -> bool:
    """Whether torch has a variable-length kernel for such queries (flash attention's limits)."""
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and is_half and query.shape[-1] <= MAX_VARLEN_HEAD and not _IS_ROCM


def _attend_varlen(
    current: PackedPass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    only_rewards: bool,
) -> tuple[Tensor, None]:
    """All segments in one call, causal and aligned at the bottom right as flash attention is."""
    if only_rewards not in current.segments:
        current.segments[only_rewards] = current.row.segments(only_rewards=only_rewards)
    segments = current.segments[only_rewards]
    output = varlen.varlen_attn(
        query[0].transpose(0, 1),
        key[0].index_select(1, segments.key_index).transpose(0, 1),
        value[0].index_select(1, segments.key_index).transpose(0, 1),
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        scale=scaling,
        # Keys to the left, besides a query's own: a window of w tokens holds w - 1 of them.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)
    return output.unsqueeze(0), None


def _mask(current: PackedPass, query: Tensor, key_length: int, window: int | None) -> Tensor | None:
    """Additive causal mask [q, k], aligned at the bottom right; None where every key may be seen.

    Made once a pass and shared by its layers, which autograd would otherwise keep a copy of each.
    """
    query_length = query.shape[2]
    if query_length == 1:
        return None
    window = None if window is None or key_length <= window else window
    name = (query_length, key_length, window)
    if name not in current.masks:
        offset = key_length - query_length
        allowed = query.new_ones(query_length, key_length, dtype=torch.bool).tril(offset)
        if window is not None:
            allowed = allowed.triu(offset - window + 1)
        zeros = query.new_zeros(query_length, key_length)
        current.masks[name] = zeros.masked_fill(~allowed, float("-inf"))
    return current.masks[name]


def _attend_eagerly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What no fused kernel does: capped scores (Gemma 2) and a learned sink a head (gpt-oss)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat((scores, column), dim=3)
    weights = scores.softmax(dim=3, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
