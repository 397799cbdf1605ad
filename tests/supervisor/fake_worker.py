"""``python -m tests.supervisor.fake_worker``: the real worker with fake trainers.

A job with ``real`` in its metadata gets the real trainer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from worker.__main__ import main
from worker.ipc.order import ORDER_FILE
from worker.supervisor import pool
from worker.supervisor.check_results import Result
from worker.supervisor.trainer_process import Child, spawn_cold

ROOT = Path(__file__).parents[2]


def spawn_fake(directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]) -> Child:
    """Start a trainer without torch."""
    if needs_real_trainer(directory):
        return spawn_cold(directory, environment, keep)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.supervisor.fake_trainer"],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=keep,
    )


def needs_real_trainer(directory: Path) -> bool:
    """Return whether the order in a work directory is one for the real trainer."""
    order = json.loads((directory / ORDER_FILE).read_bytes())
    is_real = (order["spec"] or {}).get("metadata", {}).get("real")
    return bool(is_real) or order["action"] == "inspect"


class NoForks:
    """A fork server that never forks: the real one takes seconds to load torch."""

    is_alive = True
    is_ready = False

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def spawn(self, *_: object) -> None:
        """Return None, so that trainers start in fresh interpreters."""

    def close(self) -> None:
        """Do nothing."""


def no_checks(*_: object) -> list[Result]:
    """Check nothing when the worker starts."""
    return []


def install() -> None:
    """Let the worker of this process start fake trainers."""
    pool.ForkClient = NoForks  # type: ignore[misc, assignment]
    pool.spawn_cold = spawn_fake
    # They would fail without a fork server, and every slot would then run the self-test: that loads
    # torch, which takes all processors while workers start again and again.
    pool.start_checks = no_checks


if __name__ == "__main__":
    install()
    sys.exit(main())
