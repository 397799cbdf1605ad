"""The checks in the order in which they run."""

from __future__ import annotations

from worker.doctor import engine, kernels, machine
from worker.doctor.report import Check

CHECKS = (
    Check("devices", machine.devices, is_quick=True),
    Check("forked trainers", machine.forked_trainers, is_quick=True),
    Check("locks of killed trainers", machine.released_lock, is_quick=True),
    Check("variable-length attention", kernels.variable_length_attention, needs_gpu=True),
    Check("memory of float32 attention", kernels.memory_of_float32_attention, needs_gpu=True),
    Check("start of packed rows", engine.probe),
    Check("packed step against TRL", engine.step),
    Check("lack of memory", engine.lack_of_memory),
    Check("speed against TRL", engine.speed),
)
#: What no check covers yet, with where the figures come from instead.
LEFT_OUT = (
    ("short jobs with 8-bit and 4-bit base models", "submit one and read its certificate"),
    ("peak memory against the estimate", "each job records both: plaudit jobs report ID memory"),
    ("stop and resume on a GPU", "pause and resume a job; bytes are promised on CPUs only"),
    ("several GPUs in one job", "jobs use one GPU"),
)
