"""Activation memory of a packed forward, and frozen weights that are cast only once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.trainer.memory_budget import activation_budget_bytes


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
    del graph  # kept until here: a freed storage's address could be used again
    return sum(saved.values())


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
