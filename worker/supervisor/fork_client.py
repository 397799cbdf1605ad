"""The supervisor's side of the fork server: trainers that start in a fraction of a second."""

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

#: What the server's interpreter runs, its control socket being descriptor 3.
PROGRAM = "from worker.trainer.fork_server import serve; serve()"

#: A fork takes milliseconds; a job must not wait for a server that does not answer.
FORK_SECONDS = 30.0


class ForkedTrainer:
    """A fork of the server; what ``subprocess.Popen`` offers, as far as a supervisor needs it."""

    def __init__(
        self, pid: int, status: socket.socket, stdin: int, stdout: int, stderr: int
    ) -> None:
        self.pid, self._status = pid, status
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb")
        self.stderr: IO[bytes] | None = os.fdopen(stderr, "rb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is not None:
            return self.returncode
        self._status.setblocking(False)
        try:
            return self._collect()
        except BlockingIOError:
            return None

    def wait(self) -> int:
        """The exit status, waited for; a server that died took its forks along (SIGKILL)."""
        if self.returncode is None:
            self._status.setblocking(True)
        return self._collect()

    def _collect(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._status.recv(64) or str(-signal.SIGKILL))
            self._status.close()
        return self.returncode


class ForkClient:
    """Starts the server, and starts it again when it died; never makes a job wait for it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False

    def start(self) -> None:
        """Start it; to be called by a thread that lives as long as the worker does.

        The kernel ends the server with the thread that started it. After one that said that it
        cannot serve here, none is started.
        """
        if self._server is not None and self._server.poll() == EXIT_UNFIT:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # The shell-less way to give a child a descriptor of a fixed number.
            os.set_inheritable(theirs.fileno(), True)
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
        """Whether the server has loaded everything and can fork."""
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
        """Whether there is a server process."""
        return self._server is not None and self._server.poll() is None

    def spawn(
        self, directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]
    ) -> ForkedTrainer | None:
        """A trainer in this directory, or None when the server cannot give one now."""
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
        except TimeoutError:  # frozen; a fork that it makes yet finds its pipes closed
            pid = 0
        if pid == 0:
            log.warning("fork_not_made")
            ours.close()
            for descriptor in kept:
                os.close(descriptor)
            return None
        return ForkedTrainer(pid, ours, *kept)

    def close(self) -> None:
        """End the server; forks that still run end with it."""
        if self._control is not None:
            self._control.close()
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()
