"""The quick checks of this machine: a worker runs them when it starts, and `plaudit doctor`."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from app.domain.progress import MESSAGE, Failed
from worker.ipc.order import ORDER_FILE, WorkOrder
from worker.supervisor.check_results import (
    CheckFailedError,
    LeftOutError,
    Result,
    require,
    run_check,
)
from worker.supervisor.devices import Device, devices_not_shared
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import Child, TrainerProcess

#: Seconds within which a forked trainer must have passed its self-test. It takes a second or two
#: on an idle machine.
FORK_SECONDS = 30.0
#: Seconds within which a killed process must have released its lock.
RELEASE_SECONDS = 15.0
_HOLD_LOCK = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); " \
    "print('held', flush=True); time.sleep(60)"  # fmt: skip
#: Output of a fork in which CUDA cannot be used.
_COLD = "starting a fresh interpreter"


def start_checks(server: ForkClient, devices: Sequence[Device | None]) -> list[Result]:
    """Run the quick checks; ``server`` should be ready to fork."""
    distinct = tuple(dict.fromkeys(devices))
    return [
        run_check("devices", partial(_devices, distinct)),
        run_check("forked trainers", partial(_forked_trainers, server, distinct)),
        run_check("locks of killed trainers", _released_lock),
    ]


def _devices(devices: Sequence[Device | None]) -> str:
    """Check that several processes may use each GPU at a time."""
    found = [device for device in devices if device is not None]
    if not found:
        raise LeftOutError("this worker uses no GPU: jobs train on the CPU")
    refusing = ", ".join(devices_not_shared(found))
    require(not refusing, f"not in compute mode Default: {refusing}. Run nvidia-smi -c DEFAULT")
    return "; ".join(", ".join(device.as_json().values()) for device in found)


def _forked_trainers(server: ForkClient, devices: Sequence[Device | None]) -> str:
    """Have the fork server start a trainer on each GPU, or on the CPU, and run the self-test."""
    with tempfile.TemporaryDirectory() as name:
        seconds = max(_seconds_of_fork(server, Path(name), device) for device in devices)
    return require(
        seconds <= FORK_SECONDS,
        f"{len(devices)} passed the self-test in {seconds:.1f} s at most, of {FORK_SECONDS:.0f} s",
    )


def _seconds_of_fork(server: ForkClient, directory: Path, device: Device | None) -> float:
    def fork(work: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
        if child := server.spawn(work, environment, keep):
            return child
        raise CheckFailedError("the fork server cannot fork: each job takes seconds to start")

    order = WorkOrder(action="self_test", model_dir=".", model_name="none")
    (directory / ORDER_FILE).write_text(order.model_dump_json())
    began = time.monotonic()
    # It gets no keep-alive, so that it exits by itself if it hangs.
    trainer = TrainerProcess(directory, fork, (), device)
    messages = [MESSAGE.validate_json(line) for line in iter(trainer.lines.get, None)]
    status, log = trainer.wait(), trainer.take_log(1 << 16)
    where = "" if device is None else f" on {device.uuid}"
    reason = next((m.detail for m in messages if isinstance(m, Failed)), log[-300:])
    require(status == 0, f"a forked trainer{where} ended with status {status}: {reason}")
    is_mig = device is not None and device.uuid.startswith("MIG-")
    require(is_mig or _COLD not in log, f"forks{where} start cold: CUDA was used before them")
    return time.monotonic() - began


def _released_lock() -> str:
    """Kill a process that holds a lock, and take the lock."""
    with tempfile.NamedTemporaryFile() as file:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD_LOCK, file.name], stdout=subprocess.PIPE
        )
        with holder:
            try:
                seconds = _seconds_of_release(holder, Path(file.name))
            finally:
                holder.kill()
    return require(seconds <= RELEASE_SECONDS, f"{seconds:.2f} s of {RELEASE_SECONDS:.0f} s")


def _seconds_of_release(holder: subprocess.Popen[bytes], file: Path) -> float:
    assert holder.stdout is not None
    require(holder.stdout.readline() == b"held\n", "a process could not take a lock")
    with file.open("w") as lock:
        require(not _is_free(lock), f"two processes could take the same lock in {file.parent}")
        began = time.monotonic()
        holder.send_signal(signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return time.monotonic() - began


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
