"""Disentangled attention and its gradients, one sequence and head at a time, so that scores stay in
the cache.
"""

from typing import Any

import torch
from torch import Tensor


class DisentangledAttention(torch.autograd.Function):
    """Attention with scores q·k + q·pos_key[r] + k·pos_query[r], r the embedding for i and j.

    Inputs, in float32: queries [B, M, HD], keys and values [B, L, HD], ``pos_key`` and
    ``pos_query`` [R, HD], the indices r [L, L] and their transpose, the number of keys of each
    sequence (the queries are as many, or the first M), and the number of heads. Outputs of padding
    are 0.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, key, value, pos_key, pos_query, index, index_t, lengths, heads = inputs
        output = torch.zeros_like(query)
        sizes = [(min(n, query.shape[1]), n) for n in lengths for _ in range(heads)]
        weights = query.new_empty(sum(m * n for m, n in sizes))
        tables = query.new_empty(2, key.shape[1], len(pos_key))
        parts = weights.split([m * n for m, n in sizes])
        for part, (weight, (m, n)) in enumerate(zip(parts, sizes, strict=True)):
            row, used, columns = _places(part, m, n, index, query.shape[-1], heads)
            q, k, v = query[row][:m, columns], key[row][:n, columns], value[row][:n, columns]
            torch.mm(q, pos_key[used, columns].T, out=tables[0, :m, used])
            torch.mm(k, pos_query[used, columns].T, out=tables[1, :n, used])
            scores = tables[0, :m].gather(1, index[:m, :n]).addmm_(q, k.T)
            scores += tables[1, :n].gather(1, index_t[:n, :m]).T
            torch.softmax(scores, dim=1, out=weight.view(m, n))
            torch.mm(weight.view(m, n), v, out=output[row][:m, columns])
        ctx.save_for_backward(query, key, value, pos_key, pos_query, index, index_t, weights)
        ctx.sizes, ctx.heads = sizes, heads
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, pos_key, pos_query, index, index_t, weights = ctx.saved_tensors
        of_positions = ctx.needs_input_grad[3:5]
        found = [torch.zeros_like(t) for t in (query, key, value)]
        d_pos = [torch.zeros_like(t) for t in (pos_key, pos_query)]
        tables = query.new_empty(2, key.shape[1], len(pos_key))
        parts = weights.split([m * n for m, n in ctx.sizes])
        for part, (weight, (m, n)) in enumerate(zip(parts, ctx.sizes, strict=True)):
            row, used, columns = _places(part, m, n, index, query.shape[-1], ctx.heads)
            q, k, v = query[row][:m, columns], key[row][:n, columns], value[row][:n, columns]
            d_q, d_k, d_v = (
                t[row][:length, columns] for t, length in zip(found, (m, n, n), strict=True)
            )
            d_out = grads[0][row][:m, columns]
            probabilities = weight.view(m, n)
            torch.mm(probabilities.T, d_out, out=d_v)
            d_scores = torch._softmax_backward_data(d_out @ v.T, probabilities, 1, query.dtype)
            of_key = tables[0, :m].zero_().scatter_add_(1, index[:m, :n], d_scores)[:, used]
            of_query = tables[1, :n].zero_().scatter_add_(1, index_t[:n, :m], d_scores.T)[:, used]
            torch.mm(d_scores, k, out=d_q).addmm_(of_key, pos_key[used, columns])
            torch.mm(d_scores.T, q, out=d_k).addmm_(of_query, pos_query[used, columns])
            if of_positions[0]:
                d_pos[0][used, columns].addmm_(of_key.T, q)
            if of_positions[1]:
                d_pos[1][used, columns].addmm_(of_query.T, k)
        return (*found, *d_pos, None, None, None, None)


def _places(
    part: int, queries: int, keys: int, index: Tensor, width: int, heads: int
) -> tuple[int, slice, slice]:
    """Return a head's row in the batch, the positions that it uses, and its columns."""
    row, head = divmod(part, heads)
    size = width // heads
    used = slice(int(index[0, keys - 1]), int(index[queries - 1, 0]) + 1)
    return row, used, slice(head * size, (head + 1) * size)
