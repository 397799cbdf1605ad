"""Client of the fork server, which starts trainers in a fraction of a second."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import structlog

from worker.ipc.fork_protocol import EXIT_UNFIT

log = structlog.get_logger()

#: The program of the server. Its control socket is descriptor 3.
PROGRAM = "from worker.trainer.fork_server import serve; serve()"

#: Seconds to wait for a fork, which takes milliseconds: the server may be frozen.
FORK_SECONDS = 30.0


class ForkedTrainer:
    """A trainer that is a fork of the server; implements ``trainer_process.Child``."""

    def __init__(
        self, pid: int, status: socket.socket, stdin: int, stdout: int, stderr: int
    ) -> None:
        self.pid, self._status = pid, status
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb")
        self.stderr: IO[bytes] | None = os.fdopen(stderr, "rb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while the trainer runs."""
        if self.returncode is not None:
            return self.returncode
        self._status.settimeout(0)
        try:
            return self._collect()
        except BlockingIOError:
            return None

    def wait(self) -> int:
        """Wait for the exit status. If the server died, the kernel killed its forks (SIGKILL)."""
        if self.returncode is None:
            self._status.settimeout(None)
        return self._collect()

    def _collect(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._status.recv(64) or str(-signal.SIGKILL))
            self._status.close()
        return self.returncode


class ForkClient:
    """Starts the server and asks it for forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False

    def start(self) -> None:
        """Start the server, unless an earlier one exited with EXIT_UNFIT.

        The kernel ends the server with the thread that started it, so that thread must live as long
        as the worker.
        """
        if self._server is not None and self._server.poll() == EXIT_UNFIT:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # subprocess cannot give a child a descriptor of a fixed number.
            os.set_inheritable(theirs.fileno(), True)  # noqa: FBT003 - positional only
            code = f"import os; os.dup2({theirs.fileno()}, 3)\n{PROGRAM}"
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control, self._is_ready = ours, False

    @property
    def is_ready(self) -> bool:
        """Whether the server has imported its libraries and can fork."""
        if not self._is_ready and self._control is not None:
            try:
                self._is_ready = self._control.recv(16, socket.MSG_DONTWAIT) == b"ready"
            except BlockingIOError:
                return False
            except OSError as error:
                log.warning("fork_server_gone", error=str(error))
        return self._is_ready

    @property
    def is_alive(self) -> bool:
        """Whether the server process runs."""
        return self._server is not None and self._server.poll() is None

    def spawn(
        self, directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]
    ) -> ForkedTrainer | None:
        """Start a trainer in this directory; None if the server cannot fork now."""
        if not self.is_alive or not self.is_ready or self._control is None:
            return None
        request = json.dumps({"directory": str(directory), "environment": dict(environment)})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        given = (theirs.fileno(), in_read, out_write, err_write)
        kept = (in_write, out_read, err_read)
        try:
            with self._lock:
                socket.send_fds(self._control, [request.encode()], [*given, *keep])
        except OSError as error:
            log.warning("fork_server_gone", error=str(error))
        finally:
            theirs.close()
            for descriptor in given[1:]:
                os.close(descriptor)
        ours.settimeout(FORK_SECONDS)
        try:
            pid = int(ours.recv(64) or b"0")
        except TimeoutError:  # the server is frozen; a later fork would find its pipes closed
            pid = 0
        if pid == 0:
            log.warning("fork_not_made")
            ours.close()
            for descriptor in kept:
                os.close(descriptor)
            return None
        return ForkedTrainer(pid, ours, *kept)

    def close(self) -> None:
        """End the server and its forks."""
        if self._control is not None:
            self._control.close()
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()
