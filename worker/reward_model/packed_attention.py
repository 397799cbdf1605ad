"""Attention over a packed row that separates sequences and groups and computes each prefix once.

Each sequence of a group gives one ordinary causal segment, aligned at the bottom right: queries
[P A1] on keys [P A1], and queries [Ai] on keys [P Ai] for each further sequence. The function is
registered with transformers' attention interface, so it works for every model whose attention uses
that interface.

On CUDA in half precision a layer makes one variable-length call, with one gather of keys and values
that copies the prefixes only. On other devices and dtypes each segment is one call of torch's fused
attention.
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
MAX_VARLEN_HEAD_DIM = 256
_IS_ROCM = torch.version.hip is not None


class KeysAndValuesCapturedError(Exception):
    """Exits a layer's forward after its attention has stored keys and values."""


@dataclass
class PackedPass:
    """State of one forward over a packed row, and of the backward that may recompute it."""

    row: PackedRow
    uses_varlen: bool = True
    #: Attention modules that were called, and their sliding windows in tokens.
    attended: set[nn.Module] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)
    #: While true, attention stores keys and values in ``captured`` and exits the layer.
    is_capturing: bool = False
    #: True once the last layer is restricted to the tokens at which rewards are read.
    is_trimmed: bool = False
    captured: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    segments: dict[bool, Segments] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    """Attention options of a layer; None means the default."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def needs_eager(self) -> bool:
        """Whether no fused kernel supports the options."""
        return self.softcap is not None or self.sinks is not None


# A module global, not thread-local, because on CUDA activation checkpointing recomputes in another
# thread.
_current_pass: PackedPass | None = None


@contextmanager
def packed_attention(
    configs: Sequence[PretrainedConfig], row: PackedRow, *, uses_varlen: bool = True
) -> Iterator[PackedPass]:
    """Make the models with these configurations attend within the segments of the packed row.

    With activation checkpointing, the backward must also run inside the context, because it calls
    the attention again.
    """
    global _current_pass
    AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
    before = [config._attn_implementation for config in configs]
    _current_pass = PackedPass(row, uses_varlen)
    try:
        for config in configs:
            config._attn_implementation_internal = ATTENTION_NAME
        yield _current_pass
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        _current_pass = None


def current_pass() -> PackedPass:
    """Return the current pass; raise RuntimeError if none is active."""
    if _current_pass is None:
        raise RuntimeError("packed attention was called outside of a packed pass")
    return _current_pass


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attend within the segments of the current pass's row.

    Shapes: query [1, H, T, D], key and value [1, K, T, D] with K dividing H; result [1, T, H, D].
    In a layer whose keys and values were captured before, the queries are only the tokens at which
    rewards are read. ``arguments`` are further ones of transformers' attention interface.

    Raises:
        ValueError: the model passes a mask or a position bias.
    """
    current = current_pass()
    current.attended.add(module)
    if attention_mask is not None or arguments.get("position_bias") is not None:
        raise ValueError("packed attention takes no mask and no position bias")
    options = _Options(
        scaling=arguments.get("scaling"),
        window=arguments.get("sliding_window"),
        softcap=arguments.get("softcap"),
        sinks=arguments.get("s_aux"),
    )
    if options.window is not None:
        current.windows.add(options.window)
    if current.is_capturing:
        current.captured[module] = key, value
        raise KeysAndValuesCapturedError
    only_rewards = module in current.captured
    if only_rewards:
        key, value = current.captured[module]
    use_varlen = current.uses_varlen and not options.needs_eager and has_varlen(query)
    attend = _attend_varlen if use_varlen else _attend_by_segment
    return attend(current, query, key, value, options, only_rewards=only_rewards), None


def has_varlen(query: Tensor) -> bool:
    """Return whether torch has a variable-length kernel (flash attention) for the query."""
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and is_half and query.shape[-1] <= MAX_VARLEN_HEAD_DIM and not _IS_ROCM


def has_grouped_kernel(query: Tensor, *, is_masked: bool) -> bool:
    """Return whether a fused kernel supports keys and values that several query heads share.

    On CUDA only flash attention does, without a mask, in half precision and for small heads. In
    other cases the heads are repeated, so that torch uses the memory-efficient kernel and not one
    that stores all scores.
    """
    if not query.is_cuda:
        return True
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    return is_half and query.shape[-1] <= MAX_VARLEN_HEAD_DIM and not is_masked


def _attend_varlen(
    current: PackedPass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: _Options,
    *,
    only_rewards: bool,
) -> Tensor:
    """Compute all segments in one variable-length call, causal and aligned at the bottom right."""
    if only_rewards not in current.segments:
        current.segments[only_rewards] = current.row.segments(only_rewards=only_rewards)
    segments = current.segments[only_rewards]
    output = varlen.varlen_attn(
        query[0].transpose(0, 1),
        # [T, K, D] first, so that the gather reads whole rows.
        key[0].transpose(0, 1).index_select(0, segments.key_index),
        value[0].transpose(0, 1).index_select(0, segments.key_index),
        segments.query_offsets,
        segments.key_offsets,
        segments.longest_query,
        segments.longest_key,
        scale=options.scaling,
        # Keys to the left of a query's own key: a window of w tokens contains w - 1 of them.
        window_size=(-1 if options.window is None else options.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)
    return output.unsqueeze(0)


def _attend_by_segment(
    current: PackedPass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: _Options,
    *,
    only_rewards: bool,
) -> Tensor:
    """Compute each segment in its own call."""
    result_dtype = value.dtype
    # CPU kernels for bfloat16 are slower than those for float32.
    in_float32 = query.device.type == "cpu" and value.dtype != torch.float32
    if in_float32:
        query, key, value = query.float(), key.float(), value.float()
    lengths = current.row.part_lengths
    # Slices of each segment would create a row of zeros per segment in the backward.
    queries = query.split_with_sizes([1] * len(lengths) if only_rewards else lengths, dim=2)
    keys = key.split_with_sizes(lengths, dim=2)
    values = value.split_with_sizes(lengths, dim=2)
    outputs: list[Tensor] = []
    with torch.autocast(query.device.type, enabled=False) if in_float32 else nullcontext():
        part = 0
        for prefix, _, *tails in current.row.lengths:
            whole = part
            outputs.append(
                _attend_segment(current, queries[whole], keys[whole], values[whole], options)
            )
            for part in range(whole + 1, whole + 1 + len(tails)):
                if not queries[part].shape[2]:
                    continue  # the sequence is a prefix of the first one
                k, v = keys[part], values[part]
                if prefix:
                    k = torch.cat((keys[whole][:, :, :prefix], k), dim=2)
                    v = torch.cat((values[whole][:, :, :prefix], v), dim=2)
                outputs.append(_attend_segment(current, queries[part], k, v, options))
            part = whole + 1 + len(tails)
    return torch.cat([o.transpose(1, 2) for o in outputs], dim=1).to(result_dtype)


def _attend_segment(
    current: PackedPass, query: Tensor, key: Tensor, value: Tensor, options: _Options
) -> Tensor:
    window = options.window
    if window is not None and query.shape[2] == 1:
        key, value = key[:, :, -window:], value[:, :, -window:]
    if options.needs_eager:
        return _attend_eagerly(current, query, key, value, options)
    is_plain = window is None or key.shape[2] <= window
    is_causal = is_plain and query.shape[2] == key.shape[2] and query.shape[2] > 1
    mask = None if is_causal else _mask(current, query, key.shape[2], window)
    if not has_grouped_kernel(query, is_masked=mask is not None):
        key, value = _repeat_heads(query, key), _repeat_heads(query, value)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=is_causal,
        scale=options.scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _mask(current: PackedPass, query: Tensor, key_length: int, window: int | None) -> Tensor | None:
    """Return the additive causal mask [q, k], aligned at the bottom right; None allows every key.

    All layers of a pass share a mask, because autograd would keep a separate one for each layer.
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
    current: PackedPass, query: Tensor, key: Tensor, value: Tensor, options: _Options
) -> Tensor:
    """Compute attention with capped scores (Gemma 2) or a learned sink per head (gpt-oss)."""
    mask = _mask(current, query, key.shape[2], options.window)
    key, value = _repeat_heads(query, key), _repeat_heads(query, value)
    scale = query.shape[-1] ** -0.5 if options.scaling is None else options.scaling
    scores = (query @ key.transpose(2, 3)) * scale
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if mask is not None:
        scores = scores + mask
    if options.sinks is not None:
        column = options.sinks.to(scores.dtype).reshape(1, -1, 1, 1)
        scores = torch.cat((scores, column.expand(1, -1, scores.shape[2], 1)), dim=3)
    weights = scores.softmax(dim=3, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value


def _repeat_heads(query: Tensor, grouped: Tensor) -> Tensor:
    """Repeat each grouped key or value head for the query heads that share it."""
    return grouped.repeat_interleave(query.shape[1] // grouped.shape[1], dim=1)
