"""The memory of a packed step, and that measuring it leaves nothing in memory."""

import gc
import weakref
from typing import Any

import torch
from torch import nn

from worker.trainer.shared_prefix.memory import saved_activation_bytes


def measure() -> list[Any]:
    """Measure a small model; return references to its weights and to an activation."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    kept = [weakref.ref(p) for p in model.parameters()]
    model[1].register_forward_hook(lambda _m, _a, output: kept.append(weakref.ref(output)))
    assert saved_activation_bytes(model, lambda: model(torch.ones(3, 8))) >= 3 * 8 * 4
    return kept


def test_measurement_keeps_neither_weights_nor_activations():
    kept = measure()
    gc.collect()
    assert len(kept) == 5
    assert not any(ref() is not None for ref in kept)
