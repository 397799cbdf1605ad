"""Model FLOPs utilisation of a training step: its rate relative to that of its matrix products.

The matrix products of one step are recorded with their shapes, strides and dtypes, and each is then
timed alone on the same machine. Their FLOPs divided by their times are the rate that a step would
have if it did nothing else. Fused attention on a CPU counts with its FLOPs, at the same rate; a
GPU's variable-length attention is left out. Recomputed products are not counted.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
#: Matrix products, with the positions of their factors.
PRODUCTS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2)}
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward
#: FLOPs of the backward of attention for each of the forward: five products instead of two.
BACKWARD_SHARE = 2.5
#: Seconds for which each product is repeated, and number of measurements of a step.
PRODUCT_SECONDS, STEPS = 0.05, 3


@dataclass(frozen=True)
class Factor:
    """Shape, strides and dtype of a factor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Factor:
        """Describe a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def draw(self, device: torch.device) -> Tensor:
        """Return a random tensor with these properties."""
        places = zip(self.shape, self.strides, strict=True)
        size = 1 + sum((length - 1) * stride for length, stride in places)
        return torch.randn(size, dtype=self.dtype, device=device).as_strided(
            self.shape, self.strides
        )


class Recorder(TorchDispatchMode):
    """Records the matrix products in a block, and the FLOPs of its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Factor, Factor]] = Counter()
        self.attention_flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if places := PRODUCTS.get(packet):
            a, b = (args[i] for i in places)
            self.products[Factor.of(a), Factor.of(b)] += 1
        elif packet is ATTENTION:
            is_causal = len(args) > 4 and args[4]
            self.attention_flops += _attention_flops(args[0], args[1], is_causal=is_causal)
        elif packet is ATTENTION_BACKWARD:
            flops = _attention_flops(args[1], args[2], is_causal=args[7])
            self.attention_flops += BACKWARD_SHARE * flops
        return func(*args, **(kwargs or {}))

    @property
    def product_flops(self) -> float:
        """Return the FLOPs of all recorded products."""
        return float(sum(n * _product_flops(a, b) for (a, b), n in self.products.items()))


@dataclass(frozen=True)
class Utilisation:
    """FLOP/s of a step, and of its matrix products alone."""

    step: float
    products: float


def measure(step: Callable[[], object], device: torch.device) -> Utilisation:
    """Measure the forward and backward that ``step`` runs; without a GPU in CPU time."""
    with Recorder() as recorded:
        step()
    flops = recorded.product_flops + recorded.attention_flops
    step_seconds: list[float] = []
    product_seconds: list[float] = []
    for _ in range(STEPS):  # in turns, so that both run under the same load
        step_seconds.append(_seconds(step, device))
        product_seconds.append(
            sum(n * _seconds_of(a, b, device) for (a, b), n in recorded.products.items())
        )
    rate = recorded.product_flops / statistics.median(product_seconds)
    return Utilisation(flops / statistics.median(step_seconds), rate)


def _seconds_of(a: Factor, b: Factor, device: torch.device) -> float:
    """Return the seconds of one product."""
    x, y = a.draw(device), b.draw(device)
    repeats = 1

    def multiply() -> None:
        for _ in range(repeats):
            x @ y

    while (seconds := _seconds(multiply, device)) < PRODUCT_SECONDS:
        repeats *= 2
    return seconds / repeats


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    is_cuda = device.type == "cuda"
    clock = time.perf_counter if is_cuda else time.process_time
    if is_cuda:
        torch.cuda.synchronize()
    began = clock()
    run()
    if is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def _product_flops(a: Factor, b: Factor) -> int:
    *rest, inner = a.shape
    return 2 * torch.Size(rest).numel() * inner * b.shape[-1]


def _attention_flops(query: Tensor, key: Tensor, *, is_causal: bool) -> float:
    """Return the FLOPs of the two products of attention; causal attention computes half of them."""
    return 4.0 * query.numel() * key.shape[2] * (0.5 if is_causal else 1.0)
