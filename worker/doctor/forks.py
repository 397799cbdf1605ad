"""A fork server that starts trainers, as a worker has one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker.supervisor.devices import Device
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import trainer_environment

#: Seconds that the server may take to import its libraries.
READY_SECONDS = 120.0


@contextmanager
def fork_server(devices: Sequence[Device | None]) -> Iterator[ForkClient]:
    """Yield a server that is ready to fork, or that has failed to start."""
    with tempfile.TemporaryDirectory() as name:
        server = ForkClient(trainer_environment(Path(name), devices[0]))
        server.start()
        deadline = time.monotonic() + READY_SECONDS
        try:
            while not server.is_ready and server.is_alive and time.monotonic() < deadline:
                time.sleep(0.1)
            yield server
        finally:
            server.close()
