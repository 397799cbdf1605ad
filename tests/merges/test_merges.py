"""Concurrent requests for a merged export create one job."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.adapters import publishing
from app.adapters import service as adapters
from app.adapters.service import AdapterNotFoundError
from app.core.database import transaction
from app.core.settings import Settings
from app.job_queue import worker_api
from app.jobs import service as jobs
from app.merges import service
from app.storage import blobs
from tests.job_queue.factories import QUEUE, TENANT, queue_job, write_adapter


@pytest.fixture
def adapter_id(engine: Engine, settings: Settings, tmp_path: Path) -> str:
    """What a job made."""
    queue_job(engine)
    claimed = worker_api.claim(engine, settings, QUEUE, "host-a/0:1", "host")
    assert claimed is not None
    packaged = write_adapter(tmp_path, {"adapter_config.json": b"{}"})
    return publishing.publish(claimed.context, tmp_path, packaged)


def test_concurrent_requests_get_the_same_export(
    engine: Engine, settings: Settings, adapter_id: str
) -> None:
    gate = threading.Barrier(4)
    got: list[str] = []

    def ask() -> None:
        gate.wait()
        with transaction(engine) as session:
            got.append(service.request_merge(session, settings, TENANT, adapter_id).id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(set(got)) == 1


@pytest.mark.parametrize("deleted", ["adapter", "job"])
def test_merge_is_published_although_its_source_was_deleted_meanwhile(
    engine: Engine, settings: Settings, adapter_id: str, tmp_path: Path, deleted: str
) -> None:
    with transaction(engine) as session:
        trained = adapters.get(session, TENANT, adapter_id).job_id
        merge_id = service.request_merge(session, settings, TENANT, adapter_id).id
    running = worker_api.claim(engine, settings, QUEUE, "host-a/0:1", "host")
    assert running is not None
    with transaction(engine) as session:
        if deleted == "job":
            jobs.remove(session, TENANT, trained)
        else:
            adapters.remove(session, TENANT, adapter_id)
    packaged = write_adapter(tmp_path / "merged", {"model.safetensors": b"merged"})
    made = publishing.publish(running.context, tmp_path / "merged", packaged)
    blobs.collect_garbage(engine, 100)
    with transaction(engine) as session:
        adapter = adapters.get(session, TENANT, made)
        (file,) = adapters.files(session, adapter)
        content = b"".join(blobs.read_range(engine, file.blob_id, 0, file.size))
        assert (adapter.job_id, content) == (merge_id, b"merged")
        with pytest.raises(AdapterNotFoundError):
            adapters.get(session, TENANT, adapter_id)
