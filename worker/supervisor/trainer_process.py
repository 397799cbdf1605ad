"""One trainer process: start it in a new session, read its pipes, kill its session."""

from __future__ import annotations

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import structlog

from app.domain.progress import MAX_LINE_BYTES
from worker.ipc.order import KEEP_ALIVE, STOP
from worker.supervisor.devices import PCI_ORDER, Device
from worker.supervisor.memory_limits import kills_for_memory

log = structlog.get_logger()

#: Variables that a trainer inherits; never a secret of the service.
INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TRITON_CACHE_DIR",
    "TZ",
    "VIRTUAL_ENV",
)
#: Beginnings of the names of further variables that a trainer inherits.
INHERITED_PREFIXES = ("NCCL_",)
#: Lets freed memory serve rows of another length; without it, a GPU's memory fragments.
ALLOCATOR = "expandable_segments:True"
MAX_LOG_LINE = 16 << 10
#: What Rust and C++ libraries write before they abort the process.
OUT_OF_MEMORY_TEXTS = (b"memory allocation of ", b"std::bad_alloc")
#: Seconds to drain the pipes of a dead trainer.
DRAIN_PIPES_SECONDS = 10.0


class Child(Protocol):
    """The part of ``subprocess.Popen`` that is used here; ``ForkedTrainer`` implements it too."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def wait(self) -> int: ...


#: Starts a trainer in a directory, with an environment and with descriptors that it inherits.
Spawn = Callable[[Path, Mapping[str, str], tuple[int, ...]], Child]


def trainer_environment(directory: Path, device: Device | None = None) -> dict[str, str]:
    """Return the whole environment of a trainer.

    It sees ``device`` and no other GPU. Without one, the worker's own CUDA_VISIBLE_DEVICES shows no
    NVIDIA GPU, and is passed on.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    if device is not None:
        environment |= {"CUDA_VISIBLE_DEVICES": device.uuid, "CUDA_DEVICE_ORDER": PCI_ORDER}
        if "PYTORCH_CUDA_ALLOC_CONF" not in environment:  # the older name, which torch reads too
            environment.setdefault("PYTORCH_ALLOC_CONF", ALLOCATOR)
    return {
        **environment,
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Libraries iterate over sets of strings; adapters must not depend on their order.
        "PYTHONHASHSEED": "0",
        # With busy waiting a step took 12 s instead of 3.5 s on two cores shared by four trainers.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }


def spawn_cold(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    """Start a trainer in a fresh interpreter, which takes seconds to import its libraries."""
    return subprocess.Popen(
        # -P: a file in the work directory must never be imported.
        [sys.executable, "-P", "-m", "worker.trainer"],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=keep,
    )


@dataclass(frozen=True)
class ProcessLimits:
    """What the kernel enforces on a trainer."""

    #: Memory that it may write to.
    memory_bytes: int | None = None
    #: How soon it is ended when memory runs short, from 0 to 1000.
    oom_score_adj: int = 0


NO_LIMITS = ProcessLimits()


class TrainerProcess:
    """A running trainer. ``lines`` yields its messages, and None when it closes the pipe.

    The same thread must start it and wait for it: the kernel's parent-death signal is tied to the
    thread that forked.
    """

    def __init__(
        self,
        directory: Path,
        spawn: Spawn,
        keep: tuple[int, ...],
        device: Device | None = None,
        limits: ProcessLimits = NO_LIMITS,
    ) -> None:
        self._kills_before = kills_for_memory()
        self._child = spawn(directory, trainer_environment(directory, device), keep)
        _limit(self._child.pid, limits)
        # Few, because a line may have MAX_LINE_BYTES: a trainer that writes too fast has to wait.
        self.lines: queue.Queue[bytes | None] = queue.Queue(maxsize=32)
        self._log = bytearray()
        self._log_lock = threading.Lock()
        self._ended = threading.Event()
        self._status = 0
        self._said_out_of_memory = False
        threading.Thread(target=self._collect, name="collect", daemon=True).start()
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for thread in self._readers:
            thread.start()

    def keep_alive(self) -> None:
        """Tell the trainer that its lease was renewed."""
        self._send(KEEP_ALIVE)

    def ask_to_stop(self) -> None:
        """Ask the trainer to save a checkpoint and exit."""
        self._send(STOP)

    def kill(self) -> None:
        """Kill the trainer's session; does nothing after its end."""
        if not self._ended.is_set():
            self._kill_session()

    def wait(self) -> int:
        """Wait for the trainer and return its exit status. Messages not read yet are lost."""
        self._ended.wait()
        for thread in self._readers:
            self._drain(thread)
        if any(thread.is_alive() for thread in self._readers):
            # A process that left the session holds a pipe open; closing our end would block.
            return self._status
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        return self._status

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the trainer was killed, or ended itself, because it got no more memory."""
        if self._status == -signal.SIGKILL:
            return kills_for_memory() > self._kills_before
        return self._status == -signal.SIGABRT and self._said_out_of_memory

    def _collect(self) -> None:
        """Wait for the trainer, then kill its children: they may hold its pipes open."""
        self._status = self._child.wait()
        self._kill_session()
        self._ended.set()

    def _kill_session(self) -> None:
        for kill in (os.killpg, os.kill):  # a new fork may have no session yet
            try:
                kill(self._child.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return

    def _drain(self, thread: threading.Thread) -> None:
        deadline = time.monotonic() + DRAIN_PIPES_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            while not self.lines.empty():
                self.lines.get_nowait()
            thread.join(timeout=0.02)

    def take_log(self, limit: int) -> str:
        """Return up to ``limit`` bytes of new log output, cut between lines."""
        with self._log_lock:
            end = len(self._log) if len(self._log) <= limit else limit
            if end == limit:
                end = self._log.rfind(b"\n", 0, limit) + 1 or limit
            piece = bytes(self._log[:end])
            del self._log[:end]
        return piece.decode(errors="replace").replace("\x00", "�")

    def _send(self, line: bytes) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            log.debug("trainer_not_listening", pid=self._child.pid)

    def _read_lines(self) -> None:
        assert self._child.stdout is not None
        for line in _bounded_lines(self._child.stdout, MAX_LINE_BYTES):
            self.lines.put(line)
        self.lines.put(None)

    def _read_log(self) -> None:
        assert self._child.stderr is not None
        for line in _bounded_lines(self._child.stderr, MAX_LOG_LINE):
            if any(text in line for text in OUT_OF_MEMORY_TEXTS):
                self._said_out_of_memory = True
            with self._log_lock:
                self._log += line
                # If there is too much output, keep the newest part, which is most useful after a
                # failure.
                del self._log[: max(0, len(self._log) - (1 << 20))]


def _limit(pid: int, limits: ProcessLimits) -> None:
    """Limit the memory that a process can write to, and let it write no core file.

    The address space is not limited: CUDA reserves twice the GPU's memory. A lower limit of the
    operator remains in force.
    """
    with suppress(ProcessLookupError, FileNotFoundError):  # it has ended already
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if limits.memory_bytes is not None:
            _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
            if hard == resource.RLIM_INFINITY or hard > limits.memory_bytes:
                resource.prlimit(pid, resource.RLIMIT_DATA, (limits.memory_bytes,) * 2)
        score = Path(f"/proc/{pid}/oom_score_adj")
        # Only a privileged process may lower it.
        score.write_text(str(max(limits.oom_score_adj, int(score.read_text()))))


def _bounded_lines(pipe: IO[bytes], limit: int) -> Iterator[bytes]:
    return iter(lambda: pipe.readline(limit), b"")
