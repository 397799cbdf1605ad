"""The thread that keeps the worker of an embedded service running."""

from __future__ import annotations

import errno
import subprocess
from types import SimpleNamespace

import pytest

from app.cli import supervision
from app.cli.supervision import WorkerSupervisor
from tests.services import wait_until


def test_worker_is_started_again_after_a_start_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[object] = []

    def start(*_: object, **__: object) -> SimpleNamespace:
        started.append(None)
        if len(started) == 1:
            raise OSError(errno.EAGAIN, "no more processes")
        return SimpleNamespace(wait=lambda: 1, send_signal=lambda _: None)

    monkeypatch.setattr(supervision, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(subprocess, "Popen", start)
    supervisor = WorkerSupervisor(drain_seconds=0)
    supervisor.start()
    try:
        wait_until("a second start", lambda: len(started) > 1, 10)
    finally:
        supervisor.stop()
