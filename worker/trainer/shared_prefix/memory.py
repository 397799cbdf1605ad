"""Activation memory of a forward, and frozen weights that are cast only once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.reward_model.packed_layout import SplitGroup
from worker.trainer.memory_budget import activation_budget_bytes

#: Tokens of the longer sequence whose activations are measured.
MEASURED_TOKENS = 256


@dataclass(frozen=True)
class ActivationCost:
    """Bytes that autograd saves: for each token, and for each pair of tokens of a sequence.

    Fused attention keeps nothing per pair of tokens. Attention that stores its scores does: with
    capped scores, with sinks, and in architectures without fused attention.
    """

    per_token: float
    per_token_pair: float

    @classmethod
    def measure(cls, saved_bytes: Callable[[int], int], longest: int) -> "ActivationCost":
        """Measure with sequences of ``longest`` and half as many tokens.

        ``saved_bytes`` returns the bytes that the forward of a sequence of so many tokens saves.
        """
        half = max(1, longest // 2)
        of_half, of_whole = saved_bytes(half) / half, saved_bytes(longest) / longest
        slope = max(0.0, (of_whole - of_half) / max(1, longest - half))
        return cls(max(1.0, of_whole - slope * longest), slope)

    def of(self, group: SplitGroup) -> float:
        """Return the bytes of a group's forward."""
        squares = sum(length**2 for length in group.sequence_lengths)
        return self.per_token * group.token_count + self.per_token_pair * squares


def chunks_within(
    groups: Sequence[SplitGroup], cost: ActivationCost, budget: float
) -> Iterator[list[SplitGroup]]:
    """Split a batch, in its order, into chunks whose forwards save at most ``budget`` bytes.

    A group that exceeds the budget alone becomes a separate chunk.
    """
    chunk: list[SplitGroup] = []
    used = 0.0
    for group in groups:
        if chunk and used + cost.of(group) > budget:
            yield chunk
            chunk, used = [], 0.0
        chunk.append(group)
        used += cost.of(group)
    yield chunk


def default_budget_bytes(model: nn.Module, device: torch.device) -> int:
    """Return the activation budget of a model on its device."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    is_cuda = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if is_cuda else 0
    return activation_budget_bytes(weights, device.type, total)


def saved_activation_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that autograd saves in one forward, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would refer to its own graph, which then leaks

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()
    del graph  # keep it until here: the address of a freed storage could be reused
    return sum(saved.values())


def copied_gradients(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Copy the gradients of earlier micro-steps; without accumulation there are none."""
    return {p: p.grad.clone() for p in model.parameters() if p.grad is not None}


def restore_gradients(model: nn.Module, gradients: dict[nn.Parameter, Tensor]) -> None:
    """Restore the gradients after an interrupted backward."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            before = gradients.get(parameter)
            parameter.grad = None if before is None else before.clone()


@contextmanager
def frozen_weights_cast(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Hold the frozen linear weights in the dtype to which autocast would cast them at every call.

    The results are the same bit for bit. The original weights are restored at the end, for callers
    that score with the model without autocast. With ``dtype`` None nothing is cast.
    """
    frozen = [
        parameter
        for module in model.modules()
        if dtype is not None and type(module) is nn.Linear
        for parameter in module.parameters(recurse=False)
        if not parameter.requires_grad and parameter.dtype == torch.float32
    ]
    originals = [parameter.data for parameter in frozen]
    try:
        for parameter in frozen:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in zip(frozen, originals, strict=True):
            parameter.data = data
