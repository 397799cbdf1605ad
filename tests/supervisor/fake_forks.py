"""Fake trainers of workers in the test's own process: forks, which need no start of Python."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.services import wait_until
from tests.supervisor import fake_forkserver, fake_worker
from worker.supervisor import fork_client
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import Child, spawn_cold, trainer_environment


def spawn_forked(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    """Start a trainer; a replacement of ``spawn_cold``."""
    if fake_worker.needs_real_trainer(directory):
        return spawn_cold(directory, environment, keep)
    child = server().spawn(directory, environment, keep)
    assert child is not None, "the fork server made no fork"
    return child


@functools.cache
def server() -> ForkClient:
    """Return the fork server of this process. The thread that calls first must live as long."""
    directory = tempfile.TemporaryDirectory(prefix="plaudit-forks-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_client, "PROGRAM", fake_forkserver.program("serve_light()"))
        started = ForkClient(trainer_environment(Path(directory.name)))
        started.start()
    atexit.register(directory.cleanup)
    atexit.register(started.close)
    wait_until("the fork server", lambda: started.is_ready, seconds=120)
    return started
