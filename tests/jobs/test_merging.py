"""Merged exports are made once, however many ask for one at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.database import transaction
from app.jobs import leases, merging
from app.settings import Settings
from tests.jobs.making import QUEUE, TENANT, queue_job, write_adapter


@pytest.fixture
def adapter_id(engine: Engine, settings: Settings, tmp_path: Path) -> str:
    """What a job made."""
    queue_job(engine)
    claimed = leases.claim(engine, settings, QUEUE, "host-a/0:1", "host")
    assert claimed is not None
    packaged = write_adapter(tmp_path, {"adapter_config.json": b"{}"})
    return leases.publish(engine, settings, claimed[1], tmp_path, packaged)


def test_all_who_ask_at_once_get_the_same_export(
    engine: Engine, settings: Settings, adapter_id: str
) -> None:
    gate = threading.Barrier(4)
    got: list[str] = []

    def ask() -> None:
        gate.wait()
        with transaction(engine) as session:
            got.append(merging.ask(session, settings, TENANT, adapter_id).id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(set(got)) == 1
