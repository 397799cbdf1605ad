"""A trainer process as a supervisor starts it, and a channel that records its messages."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain.progress import MESSAGE, Failed, Message, Stepped
from tests.model_factories import ROOT
from tests.services import wait_until
from worker.ipc.channel import Channel
from worker.ipc.order import KEEP_ALIVE, ORDER_FILE, WorkOrder
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import Child, trainer_environment
from worker.trainer.export.certificate import certify


@dataclass
class RecordingChannel(Channel):
    """A channel without a pipe, for orders that run in the test's own process."""

    messages: list[Message] = field(default_factory=list)
    is_stop_wanted: bool = False  # type: ignore[assignment]

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the messages of one kind."""
        return [message for message in self.messages if isinstance(message, kind)]


class StoppingChannel(RecordingChannel):
    """Requests a stop after a number of chunks; those of an earlier attempt count as well.

    With ``checks``, that number of checks later: in the middle of the next chunk.
    """

    def __init__(self, chunks: int | None, checks: int = 0) -> None:
        super().__init__()
        self.messages = []
        self._chunks, self.checks_left = chunks, checks

    @property
    def is_stop_wanted(self) -> bool:  # type: ignore[override]
        """Checked before each computed chunk, and before each module of the model."""
        if self._chunks is None or len(self.of(Stepped)) < self._chunks:
            return False
        self.checks_left -= 1
        return self.checks_left < 0

    @is_stop_wanted.setter
    def is_stop_wanted(self, value: bool) -> None:
        pass


@dataclass
class Outcome:
    """How a trainer process ended and what it sent."""

    status: int
    messages: list[Message]
    stderr: str
    work: Path

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the messages of one kind."""
        return [message for message in self.messages if isinstance(message, kind)]

    def last(self, kind: type[Any]) -> Any:
        """Return the last message of a kind; fail with the trainer's log when it sent none."""
        found = self.of(kind)
        failed = self.of(Failed)
        assert found, f"{failed[0].detail if failed else ''}\n{self.stderr}"
        return found[-1]


def write_order(work: Path, order: WorkOrder) -> None:
    """Write ``order.json`` into a work directory."""
    work.mkdir(parents=True, exist_ok=True)
    (work / ORDER_FILE).write_text(order.model_dump_json())


def run_trainer(
    work: Path,
    order: WorkOrder,
    react: Callable[[Message, Child], None] | None = None,
    env: dict[str, str] | None = None,
) -> Outcome:
    """Run a trainer to its end with keep-alives, as a supervisor does.

    It is a fork of a server that all tests of this process share. With ``env``, which may concern
    the start of the interpreter, it is ``python -m worker.trainer``. ``react`` is called with each
    message while the process runs: it may write to the process's stdin or kill it.
    """
    write_order(work, order)
    process = _spawn_cold(work, env) if env else spawn_fork(work, _environment(), ())
    assert process.stdin
    assert process.stdout
    assert process.stderr
    log: list[bytes] = []
    log_reader = threading.Thread(target=lambda: log.append(process.stderr.read()))  # type: ignore[union-attr]
    log_reader.start()
    ended = threading.Event()
    keep_alive = threading.Thread(target=_keep_alive, args=(process.stdin.fileno(), ended))
    keep_alive.start()
    messages = []
    for line in process.stdout:
        message = MESSAGE.validate_json(line)
        messages.append(message)
        if react:
            react(message, process)
    status = process.wait()
    ended.set()
    keep_alive.join()
    log_reader.join()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    return Outcome(status, messages, log[0].decode(), work)


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def _spawn_cold(work: Path, env: dict[str, str]) -> Child:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.trainer"],
        cwd=work,
        env=_environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def spawn_fork(work: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    """Start a trainer as a fork; a replacement of the supervisor's ``spawn_cold``."""
    process = fork_server().spawn(work, environment, keep)
    assert process is not None, "the fork server made no fork"
    return process


@functools.cache
def fork_server() -> ForkClient:
    """Return the server of this process: importing the libraries takes longer than most orders.

    It ends with the thread that calls first.
    """
    directory = tempfile.TemporaryDirectory(prefix="plaudit-forks-")
    server = ForkClient({**trainer_environment(Path(directory.name)), "PYTHONPATH": str(ROOT)})
    server.start()
    atexit.register(directory.cleanup)
    atexit.register(server.close)
    wait_until("the fork server", lambda: server.is_ready or not server.is_alive, seconds=300)
    return server


def _keep_alive(stdin: int, ended: threading.Event) -> None:
    while not ended.wait(0.5):
        try:
            os.write(stdin, KEEP_ALIVE)
        except BrokenPipeError:
            return


def certificate_of(order: WorkOrder, package: Path) -> dict[str, Any]:
    """Return the certificate of the adapter, or of the merged model, that an order made."""
    base = None if order.action == "merge" else Path(order.model_dir)
    with warnings.catch_warnings():  # a trainer also ignores the warnings of its libraries
        warnings.simplefilter("ignore")
        return certify(package, base, "cpu")
