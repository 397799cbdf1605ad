"""DeBERTa's disentangled attention on a CPU, one sequence and head at a time.

transformers computes it for a whole padded batch: the scores of all heads and the two position
terms that are gathered into them pass through memory a dozen times, and the relative embeddings are
projected again for every forward. Here a head's scores stay in the cache, padding is left out, the
embeddings are projected once per pass, and the last layer computes only the first token, which is
the one that the classifier reads. The results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2

from worker.trainer.shared_prefix.disentangled_function import DisentangledAttention

ATTENTIONS = {
    modeling_deberta.DisentangledSelfAttention,
    modeling_deberta_v2.DisentangledSelfAttention,
}


@dataclass(frozen=True)
class DisentangledModel:
    """The attention modules of a DeBERTa, and its last layer."""

    attentions: tuple[Any, ...]
    last_layer: nn.Module

    @classmethod
    def of(cls, model: nn.Module) -> DisentangledModel | None:
        """Find the parts of a model; return None if it is not one that this module computes."""
        attentions = tuple(m for m in model.modules() if type(m) in ATTENTIONS)
        stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
        layers = next((list(m) for m in stacks if 1 < len(m) == len(attentions)), None)
        if layers is None or not all(map(_is_supported, attentions)):
            return None
        return cls(attentions, layers[-1])

    @contextmanager
    def in_use(self, *, is_recomputed: bool = False) -> Iterator[None]:
        """Compute the attention here. A backward that computes layers again must run inside."""
        current = _Pass(keeps_positions=not is_recomputed)
        with ExitStack() as stack:
            hook = self.last_layer.register_forward_pre_hook(_first_token_only, with_kwargs=True)
            stack.callback(hook.remove)
            for module in self.attentions:
                stack.callback(module.__dict__.pop, "forward", None)
                module.forward = partial(_attend, current, module)
            yield


@dataclass
class _Pass:
    """What the forwards of a pass share."""

    #: False if layers are computed again: every forward must then save the same tensors.
    keeps_positions: bool
    #: For each module, relative embeddings projected to keys and, scaled, to queries.
    positions: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    #: For each length, the row of the embeddings for query i and key j, and its transpose.
    indices: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def _is_supported(module: Any) -> bool:
    return bool(
        module.relative_attention
        and set(module.pos_att_type) == {"c2p", "p2c"}
        and not getattr(module, "talking_head", False)
    )


def _first_token_only(
    _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "query_states": args[0][:, :1]}


def _attend(
    current: _Pass,
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    *_output_attentions: bool,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Replace ``DisentangledSelfAttention.forward``; sequences are padded on the right."""
    is_v2 = isinstance(module, modeling_deberta_v2.DisentangledSelfAttention)
    positions = current.positions.get(module)
    if positions is None:
        project = _positions_v2 if is_v2 else _positions_v1
        to_key, to_query = project(module, arguments["rel_embeddings"])
        positions = to_key.float(), to_query.float() * (3 * module.attention_head_size) ** -0.5
        if current.keeps_positions:
            current.positions[module] = positions
    length = hidden_states.shape[1]
    if length not in current.indices:
        span = len(positions[0]) // 2
        index = (arguments["relative_pos"].view(length, length) + span).clamp(0, 2 * span - 1)
        current.indices[length] = index, index.T.contiguous()
    inputs = _inputs_v2 if is_v2 else _inputs_v1
    query, key, value = inputs(module, hidden_states, arguments["query_states"])
    with torch.autocast("cpu", enabled=False):  # products in bfloat16 are slower on a CPU
        context: Tensor = DisentangledAttention.apply(  # type: ignore[no-untyped-call]
            query.float() * (3 * module.attention_head_size) ** -0.5,  # content, two of positions
            key.float(),
            value.float(),
            *positions,
            *current.indices[length],
            attention_mask[:, 0, 0].sum(dim=1).tolist(),
            module.num_attention_heads,
        )
    return context.to(value.dtype), None


def _inputs_v2(
    module: Any, hidden_states: Tensor, query_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    queried = hidden_states if query_states is None else query_states
    key, value = module.key_proj(hidden_states), module.value_proj(hidden_states)
    return module.query_proj(queried), key, value


def _inputs_v1(
    module: Any, hidden_states: Tensor, query_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """DeBERTa v1 projects once; each head's output holds its query, key and value."""
    heads = module.in_proj(hidden_states).unflatten(-1, (module.num_attention_heads, -1))
    query, key, value = (part.flatten(-2) for part in heads.chunk(3, dim=-1))
    if query_states is not None:
        query = query[:, : query_states.shape[1]]
    return query + module.q_bias, key, value + module.v_bias


def _positions_v2(module: Any, rel_embeddings: Tensor) -> tuple[Tensor, Tensor]:
    to_key, to_query = (
        (module.key_proj, module.query_proj)
        if module.share_att_key
        else (module.pos_key_proj, module.pos_query_proj)
    )
    rows = rel_embeddings[: 2 * module.pos_ebd_size]
    return to_key(rows), to_query(rows)


def _positions_v1(module: Any, rel_embeddings: Tensor) -> tuple[Tensor, Tensor]:
    rows = rel_embeddings[: 2 * module.max_relative_positions]
    return module.pos_proj(rows), module.pos_q_proj(rows)
