"""What a forward keeps for its backward, what it may keep, and weights that are cast only once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.trainer.memory_estimate import memory_budget_bytes


def budget_of(model: nn.Module, device: torch.device) -> int:
    """The budget of a model where it is."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    is_cuda = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if is_cuda else 0
    return memory_budget_bytes(weights, device.type, total)


def bytes_kept(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps of one forward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()
    del graph  # held until here, so that no storage was freed and its address used again
    return sum(kept.values())


@contextmanager
def frozen_weights_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Hold the frozen linear weights in the type that autocast would give them at every call.

    The bits of the run are the same. The weights themselves come back at the end, so that whoever
    scores with the model afterwards, without autocast, finds what was loaded. None does nothing.
    """
    frozen = [
        parameter
        for module in model.modules()
        if dtype is not None and type(module) is nn.Linear
        for parameter in module.parameters(recurse=False)
        if not parameter.requires_grad and parameter.dtype == torch.float32
    ]
    loaded = [parameter.data for parameter in frozen]
    try:
        for parameter in frozen:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in zip(frozen, loaded, strict=True):
            parameter.data = data
