"""One trainer process: started in its own session, heard on a pipe, killed as a whole."""

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
from pathlib import Path
from typing import IO, Protocol

import structlog

from app.domain.progress import MAX_LINE_BYTES
from worker.ipc.order import KEEP_ALIVE, STOP
from worker.supervisor.devices import PCI_ORDER, Device

log = structlog.get_logger()

#: What a trainer may read of this process's environment: never a secret of the service.
INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "TZ",
    "VIRTUAL_ENV",
)
MAX_LOG_LINE = 16 << 10
#: So long a dead trainer's pipes are read to their end.
HELD_SECONDS = 10.0


class Child(Protocol):
    """What is needed of ``subprocess.Popen``; the fork server's children offer it as well."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def wait(self) -> int: ...


#: Starts a trainer in a directory, with an environment and descriptors that it shall hold.
Spawn = Callable[[Path, Mapping[str, str], tuple[int, ...]], Child]


def trainer_environment(directory: Path, device: Device | None = None) -> dict[str, str]:
    """Return the whole environment of a trainer.

    It sees ``device`` and no other GPU. Without one, the worker's own CUDA_VISIBLE_DEVICES shows no
    NVIDIA GPU, and is passed on.
    """
    chosen = {"CUDA_VISIBLE_DEVICES": device.uuid, "CUDA_DEVICE_ORDER": PCI_ORDER} if device else {}
    return {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        **chosen,
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Sets of strings are iterated in libraries; adapters must not depend on the order.
        "PYTHONHASHSEED": "0",
        # Threads that spin while they wait for each other: 12 s a step instead of 3.5 s where two
        # of them had a quarter of two busy cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }


def spawn_cold(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    """A fresh interpreter: seconds until it trains."""
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


class TrainerProcess:
    """A child that reads control lines and says progress lines; None on ``lines`` is its end.

    Started and waited for by one thread: the kernel's parent-death signal is tied to the thread
    that forked.
    """

    def __init__(
        self,
        directory: Path,
        spawn: Spawn,
        keep: tuple[int, ...],
        device: Device | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._child = spawn(directory, trainer_environment(directory, device), keep)
        if memory_bytes is not None:
            _limit_memory(self._child.pid, memory_bytes)
        # Few, for a line may have MAX_LINE_BYTES: a child that talks faster than it is heard waits.
        self.lines: queue.Queue[bytes | None] = queue.Queue(maxsize=32)
        self._log = bytearray()
        self._log_lock = threading.Lock()
        self._ended = threading.Event()
        self._status = 0
        threading.Thread(target=self._collect, name="collect", daemon=True).start()
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for thread in self._readers:
            thread.start()

    def keep_alive(self) -> None:
        """Tell the child that its lease was renewed."""
        self._send(KEEP_ALIVE)

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and an orderly end."""
        self._send(STOP)

    def kill(self) -> None:
        """Kill the child's whole session; harmless when it is gone."""
        if not self._ended.is_set():
            self._kill_session()

    def wait(self) -> int:
        """Wait for the child; its exit status. What it said and nobody heard is let go."""
        self._ended.wait()
        for thread in self._readers:
            self._let_go(thread)
        if any(thread.is_alive() for thread in self._readers):
            # A process that left the session holds a pipe: to close what is read would wait for it.
            return self._status
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        return self._status

    def _collect(self) -> None:
        """Its children may outlive it, and hold its pipes open."""
        self._status = self._child.wait()
        self._kill_session()
        self._ended.set()

    def _kill_session(self) -> None:
        for kill in (os.killpg, os.kill):  # a fork that has no session yet is only a process
            try:
                kill(self._child.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return

    def _let_go(self, thread: threading.Thread) -> None:
        deadline = time.monotonic() + HELD_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            while not self.lines.empty():
                self.lines.get_nowait()
            thread.join(timeout=0.02)

    def take_log(self, limit: int) -> str:
        """Up to ``limit`` bytes of what was logged since the last call, cut between lines."""
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
            with self._log_lock:
                self._log += line
                # A flood is cut in the middle of time, not the end: the last words matter most.
                del self._log[: max(0, len(self._log) - (1 << 20))]


def _limit_memory(pid: int, limit: int) -> None:
    """What it can write to, not its address space: CUDA reserves twice the GPU's memory of that.

    A limit of the operator's own that is lower stays: only root could raise it.
    """
    with suppress(ProcessLookupError):  # it ended at once; its status says how
        _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or hard > limit:
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def _bounded_lines(pipe: IO[bytes], limit: int) -> Iterator[bytes]:
    return iter(lambda: pipe.readline(limit), b"")
