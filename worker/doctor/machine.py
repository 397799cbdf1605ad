"""Checks of the driver, of trainers that are forked, and of locks."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from worker.doctor.report import CheckFailedError, LeftOutError, require
from worker.ipc.order import ORDER_FILE, WorkOrder
from worker.supervisor.devices import Device, visible_devices
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import trainer_environment

#: Seconds within which a forked trainer must have multiplied its first matrix.
FORK_SECONDS = 3.0
#: Seconds within which a killed process must have released its lock and its memory.
RELEASE_SECONDS = 15.0
_HOLD_LOCK = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); " \
    "print('held', flush=True); time.sleep(60)"  # fmt: skip


def devices(_device: str) -> str:
    """Compare the GPUs that NVML lists with those that CUDA can use."""
    found = visible_devices(os.environ)
    if not found:
        raise LeftOutError("NVML lists no GPU for this process")
    usable = torch.cuda.device_count()
    require(usable > 0, f"NVML lists {len(found)} GPU(s), and CUDA can use none: {_init_error()}")
    names = {torch.cuda.get_device_name(i) for i in range(usable)}
    architectures = torch.cuda.get_arch_list()
    for index in range(usable):
        major, minor = torch.cuda.get_device_capability(index)
        is_built = any(a.endswith((f"_{major}{minor}", f"_{major}0")) for a in architectures)
        require(is_built, f"torch has no kernels for sm_{major}{minor}, only {architectures}")
    _require_shared_mode()
    return f"{usable} × {', '.join(sorted(names))}, CUDA {torch.version.cuda}"


def forked_trainers(_device: str) -> str:
    """Have the fork server start a trainer on each GPU, or on the CPU, and multiply a matrix."""
    found: tuple[Device | None, ...] = visible_devices(os.environ) or (None,)
    times = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = ForkClient(trainer_environment(directory, found[0]))
        server.start()
        try:
            _wait_until_ready(server)
            times = [_seconds_of_fork(server, directory, device) for device in found]
        finally:
            server.close()
    figures = f"{max(times):.2f} s at most, of {FORK_SECONDS:.0f} s"
    return require(max(times) <= FORK_SECONDS, figures)


def released_lock(_device: str) -> str:
    """Kill a process that holds a lock, and take the lock."""
    with tempfile.NamedTemporaryFile() as file:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD_LOCK, file.name], stdout=subprocess.PIPE
        )
        assert holder.stdout
        holder.stdout.readline()
        began = time.monotonic()
        holder.send_signal(signal.SIGKILL)
        with Path(file.name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        seconds = time.monotonic() - began
        holder.wait()
        holder.stdout.close()
    return require(seconds <= RELEASE_SECONDS, f"{seconds:.2f} s of {RELEASE_SECONDS:.0f} s")


def _wait_until_ready(server: ForkClient) -> None:
    deadline = time.monotonic() + 120
    while not server.is_ready:
        if not server.is_alive or time.monotonic() > deadline:
            raise CheckFailedError("the fork server did not start; its reason stands above")
        time.sleep(0.1)


def _seconds_of_fork(server: ForkClient, directory: Path, device: Device | None) -> float:
    order = WorkOrder(action="self_test", model_dir=".", model_name="none")
    (directory / ORDER_FILE).write_text(order.model_dump_json())
    began = time.monotonic()
    child: Any = server.spawn(directory, trainer_environment(directory, device), ())
    if child is None:
        raise CheckFailedError("the fork server made no fork")
    status, log = child.wait(), child.stderr.read().decode()
    seconds = time.monotonic() - began
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    require(status == 0, f"a forked trainer ended with status {status}: {log[-300:]}")
    require("starting a fresh interpreter" not in log, "forks start cold: CUDA was used before")
    return seconds


def _init_error() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return str(error)
    return "no error"


def _require_shared_mode() -> None:
    """Refuse a compute mode that allows one process for each GPU, or none."""
    import pynvml

    pynvml.nvmlInit()
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            mode = pynvml.nvmlDeviceGetComputeMode(handle)
            require(
                mode != pynvml.NVML_COMPUTEMODE_PROHIBITED,
                f"GPU {index} is in compute mode Prohibited: nvidia-smi -c DEFAULT",
            )
    finally:
        pynvml.nvmlShutdown()
