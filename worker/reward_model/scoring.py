"""Compute rewards of token sequences in padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from worker.reward_model.errors import is_out_of_memory
from worker.reward_model.mixed_precision import without_adapter_casts

#: Padded tokens per batch: enough to keep a GPU busy. Without a backward they need a few GiB for
#: models of 8 billion parameters.
BATCH_TOKENS = 16_384
#: Value of ``batch_tokens`` that scores every sequence alone, without padding.
ALONE = 1


def score(
    model: nn.Module,
    sequences: Sequence[Any],
    *,
    pad_token_id: int,
    batch_tokens: int = BATCH_TOKENS,
    bf16: bool = False,
) -> list[float]:
    """Return the raw reward (no sigmoid) of each sequence of token ids, in their order.

    Sequences of similar length share a batch of at most ``batch_tokens`` tokens, padded on the
    right: left padding changes the scores of models with absolute positions and of encoders that
    read the first token. A longer sequence gets its own batch. If memory runs out, batches are
    halved. With ``bf16`` the forward runs under autocast, as in training. The model's train or eval
    mode is restored, and no random numbers are drawn.
    """
    device = next(p for p in model.parameters() if p.device.type != "meta").device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    lengths = [len(sequences[i]) for i in order]
    rewards = [0.0] * len(sequences)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=bf16),
            without_adapter_casts(model) if bf16 else nullcontext(),
        ):
            start = 0
            while start < len(order):
                end = _batch_end(lengths, start, batch_tokens)
                batch = order[start:end]
                ids, mask = _pad([sequences[i] for i in batch], pad_token_id)
                try:
                    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
                except Exception as error:
                    if len(batch) == 1 or not is_out_of_memory(error):
                        raise
                    batch_tokens = ids.numel() // 2
                    continue
                for i, value in zip(batch, logits.reshape(-1).float().tolist(), strict=True):
                    rewards[i] = value
                start = end
    finally:
        model.train(was_training)
    return rewards


def _batch_end(lengths: Sequence[int], start: int, batch_tokens: int) -> int:
    """Return the end index of the batch that begins at ``start`` of the ascending lengths."""
    end = start + 1
    while end < len(lengths) and (end + 1 - start) * lengths[end] <= batch_tokens:
        end += 1
    return end


def _pad(sequences: list[Any], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, both [sequences, tokens of the longest]."""
    shape = (len(sequences), max(len(s) for s in sequences))
    ids = torch.full(shape, pad_token_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids, mask
