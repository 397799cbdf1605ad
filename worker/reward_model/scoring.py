"""Compute rewards of token sequences. All code that scores goes through here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def score(
    model: nn.Module,
    sequences: Sequence[Any],
    *,
    pad_token_id: int,
    batch_size: int,
    bf16: bool = False,
) -> list[float]:
    """Return the raw reward (no sigmoid) of each sequence of token ids, in their order.

    Sequences of similar length share a batch of ``batch_size``, padded on the right: left padding
    changes the scores of models with absolute positions and of encoders that read the first token.
    With ``bf16`` the forward runs under autocast, as in training. The model's train or eval mode is
    restored, and no random number is drawn.
    """
    device = next(p for p in model.parameters() if p.device.type != "meta").device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    rewards = [0.0] * len(sequences)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                ids, mask = _pad([sequences[i] for i in batch], pad_token_id)
                logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
                for i, value in zip(batch, logits.reshape(-1).float().tolist(), strict=True):
                    rewards[i] = value
    finally:
        model.train(was_training)
    return rewards


def _pad(sequences: list[Any], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, both [sequences, tokens of the longest]."""
    shape = (len(sequences), max(len(s) for s in sequences))
    ids = torch.full(shape, pad_token_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids, mask
