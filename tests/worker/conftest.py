"""A workshop on a real database of either kind, whose trainers need no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.worker import fake_worker
from tests.worker.workshop import Workshop
from worker import station


@pytest.fixture
def workshop(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(station, "ForkServer", fake_worker.NoForks)
    monkeypatch.setattr(station, "spawn_cold", fake_worker.spawn_fake)
    made = Workshop(engine, tmp_path)
    yield made
    left = made.trainers()
    for process in left:
        process.kill()
    assert left == []
