"""A workshop on both databases, with fake trainers that need no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.supervisor import fake_forks, fake_worker
from tests.supervisor.workshop import Workshop
from worker.supervisor import pool


@pytest.fixture
def workshop(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(pool, "ForkClient", fake_worker.NoForks)
    monkeypatch.setattr(pool, "spawn_cold", fake_forks.spawn_forked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # more slots than this machine may have GPUs
    fake_forks.server()  # ends with the thread that starts it
    made = Workshop(engine, tmp_path)
    yield made
    left = made.trainers()
    for process in left:
        process.kill()
    assert left == []
