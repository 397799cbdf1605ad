"""A database of the first release is upgraded with its data, and the service continues with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.config import Config
from sqlalchemy import Engine, MetaData, Table
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import new_id, transaction
from app.core.migrations import is_current, migrate
from app.core.settings import Settings
from app.main import create_app
from tests.test_migrations import ALEMBIC, empty

__all__ = ["empty"]

FIRST_RELEASE = "b7d41f0e92ac"
PAIR = b'{"prompt": "q", "chosen": "good", "rejected": "bad", "line": 1}\n'
SHA = hashlib.sha256(PAIR).hexdigest()
DATASET, JOB, ADAPTER, BLOB = (new_id(kind) for kind in ("ds", "job", "ad", "blob"))
NOW = 1_790_000_000_000
SUMMARY = {
    "format": "text",
    "prompt": "explicit",
    "has_margin": False,
    "slices": {},
    "ignored_columns": [],
}
#: Rows as the first release wrote them, parents first.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("blobs", {"id": BLOB, "state": "ready", "sha256": SHA, "size": len(PAIR), "created_at": NOW}),
    ("blob_chunks", {"blob_id": BLOB, "seq": 0, "data": PAIR}),
    ("datasets", {
        "id": DATASET, "tenant_id": "acme", "name": "old", "source_format": "jsonl",
        "upload_sha256": SHA, "upload_bytes": len(PAIR), "blob_id": BLOB, "sha256": SHA,
        "bytes": len(PAIR), "pair_count": 1, "summary": SUMMARY, "created_at": NOW,
    }),
    ("jobs", {
        "id": JOB, "tenant_id": "acme", "kind": "train", "queue": "plaudit.default", "name": "old",
        "metadata": {"team": "a"}, "priority": 0, "status": "succeeded", "desired": "run",
        "keep_checkpoint": False, "spec_sha256": "0" * 64, "base_model": "all-minilm-l6-v2",
        "spec": {"base_model": "all-minilm-l6-v2", "train_dataset": DATASET}, "warnings": [],
        "train_dataset_id": DATASET, "created_at": NOW, "run_after": NOW, "runtime_ms": 1000,
        "attempt": 1, "failures": 0, "crashes": 0, "preemptions": 0, "stalls": 0, "event_seq": 1,
        "version": 2, "finished_at": NOW, "adapter_id": ADAPTER,
    }),
    ("job_events", {"job_id": JOB, "seq": 1, "attempt": 0, "at": NOW, "type": "queued",
                    "message": "Queued.", "data": {}}),
    ("job_metrics", {"job_id": JOB, "step": 1, "name": "train/loss", "value": 0.5, "attempt": 1}),
    ("adapters", {
        "id": ADAPTER, "tenant_id": "acme", "job_id": JOB, "base_model": "all-minilm-l6-v2",
        "bytes": len(PAIR), "archive_sha256": SHA, "archive_bytes": 10240, "metrics": {},
        "certificate": {}, "summary": {"format": 1}, "created_at": NOW,
    }),
    ("stored_files", {"owner_id": ADAPTER, "name": "README.md", "blob_id": BLOB, "sha256": SHA,
                      "size": len(PAIR)}),
]  # fmt: skip


@pytest.fixture
def upgraded(empty: Engine) -> Engine:
    """A database of the first release with a row in most tables, upgraded to this version."""
    config = Config()
    config.set_main_option("script_location", str(ALEMBIC))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = empty
    alembic.command.upgrade(config, FIRST_RELEASE)
    with empty.begin() as connection:
        for name, row in ROWS:
            table = Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
            connection.execute(table.insert().values(row))
    assert not is_current(empty)
    migrate(empty)
    return empty


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection:sqlalchemy.exc.SAWarning")
def test_data_of_the_first_release_are_served(upgraded: Engine, tmp_path: Path) -> None:
    url = upgraded.url.render_as_string(hide_password=False)
    settings = Settings(database_url=url, data_dir=tmp_path, preflight_wait_seconds=0)  # type: ignore[arg-type]
    with transaction(upgraded) as session:
        key = api_keys.create(session, "acme", "a test", [Scope.ADMIN]).token
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:

        def get(path: str) -> Any:
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert [row["id"] for row in get("/v1/datasets")["data"]] == [DATASET]
        assert client.get(f"/v1/datasets/{DATASET}/content").content == PAIR
        job = get(f"/v1/jobs/{JOB}")
        assert (job["status"], job["adapter_id"]) == ("succeeded", ADAPTER)
        assert get(f"/v1/jobs/{JOB}/metrics")["columns"] == {"step": [1], "train/loss": [0.5]}
        assert get(f"/v1/adapters/{ADAPTER}")["files"][0]["sha256"] == SHA
        assert client.get(f"/v1/adapters/{ADAPTER}/files/README.md").content == PAIR
        clone = client.post(f"/v1/jobs/{JOB}/clone")
        assert clone.status_code == 201, clone.text
        same = {"Content-Type": "application/x-ndjson"}
        assert client.post("/v1/datasets", content=PAIR, headers=same).status_code == 201
