"""Memory of a device, and how much of it a training step may use for activations.

The budget decides how a batch is split into chunks. A resumed run must split batches like the run
that it continues, so the budget does not depend on the currently free memory.
"""

from __future__ import annotations

import resource
from typing import Literal

import torch

from app.domain.plan import TrainingPlan
from worker.ipc.machine_memory import machine_memory_bytes

#: The smallest budget; batches that need less are never split.
MIN_BUDGET_BYTES = 256 * 2**20


def device_memory_bytes(device: str, limit: int | None = None) -> int:
    """Return the memory of the GPU; for "cpu" the machine's, its container's or ``limit``."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    machine = machine_memory_bytes()
    return machine if limit is None else min(machine, limit)


def peak_bytes(device: str) -> int:
    """Return the peak memory of this process: on the GPU if it uses one, else in RAM."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) << 10


def gpu_name() -> str:
    """Return the name and the compute capability of the GPU."""
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)} {major}.{minor}"


def activation_budget_bytes(weights: int, device_type: str, device_bytes: int) -> int:
    """Return the bytes of activations that a step may keep in addition to ``weights`` bytes of a
    model.

    On a GPU it is half of the remaining memory, on a CPU as much as the weights take.
    """
    budget = (device_bytes - weights) // 2 if device_type == "cuda" else weights
    return max(MIN_BUDGET_BYTES, budget)


def recompute_above_bytes(plan: TrainingPlan, device: str, device_bytes: int) -> int | None:
    """Return the activation bytes above which one packed pair is recomputed in the backward.

    None means the activation budget. With "auto" on a CPU it is half of the device's memory.
    """
    if plan.gradient_checkpointing != "auto" or device == "cuda":
        return None
    return device_bytes // 2


def uses_activation_checkpointing(
    device: str, *, setting: bool | Literal["auto"], is_supported: bool
) -> bool:
    """Whether the stock backend recomputes activations; "auto" does so on GPUs only."""
    return is_supported and (device == "cuda" if setting == "auto" else setting)
