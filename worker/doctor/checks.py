"""The checks that take minutes, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.doctor import engine, kernels, short_jobs


@dataclass(frozen=True)
class Check:
    """One check. ``run`` takes "cpu" or "cuda" and returns the figures that were found.

    It raises CheckFailedError or LeftOutError; any other exception fails the check too.
    """

    name: str
    run: Callable[[str], str]
    needs_gpu: bool = False


CHECKS = (
    Check("variable-length attention", kernels.variable_length_attention, needs_gpu=True),
    Check("memory of float32 attention", kernels.memory_of_float32_attention, needs_gpu=True),
    Check("start of packed rows", engine.probe),
    Check("packed step against TRL", engine.step),
    Check("memory after training", engine.released_memory),
    Check("lack of memory", engine.lack_of_memory),
    Check("speed against TRL", engine.speed),
    Check("fused kernels", engine.fused_layers, needs_gpu=True),
    Check("short jobs", short_jobs.verified_jobs),
    Check("stop and resume", short_jobs.stop_and_resume),
    Check("peak memory against the estimate", short_jobs.peak_memory, needs_gpu=True),
)
#: What no check covers, with the reason.
LEFT_OUT = (("several GPUs in one job", "each job uses one GPU"),)
