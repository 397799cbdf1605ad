"""Runs a private service during a ``with`` block; all of its processes end with the block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.api_keys.defaults import FIRST_KEY_FILE
from app.cli.client import open_client, read_key
from app.cli.exit_codes import CommandError, ExitCode
from plaudit import Plaudit

START_SECONDS = 120.0
#: Time in which a worker that is stopped during a job can save a checkpoint.
DRAIN_SECONDS = 10
STOP_SECONDS = 30.0
LOG = "serve.log"


@contextmanager
def own_service(data_dir: Path) -> Iterator[Plaudit]:
    """Run an embedded service on a free port of 127.0.0.1, with data and log in ``data_dir``.

    The service is stopped whenever the block ends, also after SIGTERM, SIGHUP and Ctrl-C.

    Raises:
        CommandError: the service did not start.
    """
    data_dir.mkdir(0o700, parents=True, exist_ok=True)
    previous = {n: signal.signal(n, _leave) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        port = _free_port()
        with (data_dir / LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app.cli", "serve", "--with-parent", str(os.getpid())],
                env=_environment(data_dir, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach only this process, which stops it
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, data_dir)
            with open_client(url, read_key(data_dir / FIRST_KEY_FILE)) as client:
                yield client
        finally:
            _stop(process)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _environment(data_dir: Path, port: int) -> dict[str, str]:
    """Return the environment without this shell's settings, which may be for another service."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
    return inherited | {
        "PLAUDIT_DATA_DIR": str(data_dir.resolve()),
        "PLAUDIT_HOST": "127.0.0.1",
        "PLAUDIT_PORT": str(port),
        "PLAUDIT_POLL_SECONDS": "0.2",
        "PLAUDIT_DRAIN_SECONDS": str(DRAIN_SECONDS),
    }


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], data_dir: Path) -> None:
    """Wait until the API responds and its worker has registered."""
    give_up_at = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up_at:
        try:
            state = httpx.get(f"{url}/readyz", timeout=5.0)
            if state.status_code == httpx.codes.OK and state.json()["workers"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise CommandError(
        f"The service did not start. Last lines of {data_dir / LOG}:\n{_tail(data_dir / LOG)}",
        ExitCode.AWAY,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DRAIN_SECONDS + STOP_SECONDS)
    finally:  # also after a second Ctrl-C; the kernel then kills the processes of the service
        process.kill()
        process.wait()


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)
