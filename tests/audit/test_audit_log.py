"""The audit log records actions together with their effect."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.api_keys.service import first_key
from app.auth.scopes import Scope
from app.cli.commands import app as cli
from app.core.database import transaction
from app.models import ApiKey, AuditRecord
from tests.world import World, pairs


def recorded_actions(client: TestClient) -> list[tuple[str, str]]:
    """Return action and object id of all entries, oldest first."""
    answer = client.get("/v1/audit", params={"limit": 100})
    assert answer.status_code == 200, answer.text
    return [(row["action"], row["object_id"]) for row in reversed(answer.json()["data"])]


def test_every_action_is_recorded(world: World, client: TestClient) -> None:
    job = world.submit()
    path = f"/v1/jobs/{job['id']}"
    dataset_id = job["spec"]["train_dataset"]
    client.patch(path, json={"name": "renamed"})
    client.post(f"{path}/pause")
    client.post(f"{path}/resume")
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    clone = client.post(f"{path}/clone").json()["id"]
    client.post(f"/v1/jobs/{clone}/cancel")
    client.get(f"/v1/adapters/{adapter_id}/files/adapter_config.json")
    client.get(f"/v1/adapters/{adapter_id}/archive", headers={"Range": "bytes=0-9"})
    client.delete(f"/v1/adapters/{adapter_id}")
    client.delete(path)
    client.delete(f"/v1/jobs/{clone}")
    client.delete(f"/v1/datasets/{dataset_id}")
    upload = client.post("/v1/datasets/uploads").json()["id"]
    for _ in range(2):  # the second time nothing changes
        client.put(
            f"/v1/datasets/uploads/{upload}/parts/1?format=jsonl",
            content=pairs(3),
            headers={"Content-Type": "application/octet-stream"},
        )
    finished = client.post(f"/v1/datasets/uploads/{upload}/finish").json()["id"]
    client.delete(f"/v1/datasets/uploads/{upload}")
    imported = client.post("/v1/datasets/imports", json={"source": "hub:acme/pairs"}).json()["id"]
    client.post(f"/v1/datasets/imports/{imported}/cancel")
    key = client.post("/v1/api-keys", json={"name": "ci", "scopes": ["jobs:read"]}).json()["id"]
    client.delete(f"/v1/api-keys/{key}")
    assert recorded_actions(client) == [
        ("dataset.upload", dataset_id),
        ("job.submit", job["id"]),
        ("job.update", job["id"]),
        ("job.pause", job["id"]),
        ("job.resume", job["id"]),
        ("job.submit", clone),
        ("job.cancel", clone),
        ("adapter.download", adapter_id),
        ("adapter.download", adapter_id),
        ("adapter.delete", adapter_id),
        ("job.delete", job["id"]),
        ("job.delete", clone),
        ("dataset.delete", dataset_id),
        ("upload.create", upload),
        ("upload.part", upload),
        ("dataset.upload", finished),
        ("upload.delete", upload),
        ("dataset.import", imported),
        ("import.cancel", imported),
        ("api_key.create", key),
        ("api_key.revoke", key),
    ]


def test_entry_has_key_request_id_and_client(
    job: dict[str, Any], client: TestClient, engine: Engine, logged: io.StringIO
) -> None:
    answer = client.post(f"/v1/jobs/{job['id']}/cancel", headers={"x-request-id": "from-ci-7"})
    assert answer.headers["x-request-id"] == "from-ci-7"
    with transaction(engine) as session:
        key_id = session.scalar(select(ApiKey.id))
        row = session.scalars(select(AuditRecord).order_by(AuditRecord.id.desc())).first()
    assert row is not None
    assert (row.tenant_id, row.key_id, row.request_id, row.client) == (
        "acme",
        key_id,
        "from-ci-7",
        "testclient",
    )


def test_rejected_requests_are_not_recorded(
    world: World, job: dict[str, Any], client: TestClient
) -> None:
    before = recorded_actions(client)
    lease = world.claim()
    client.delete(f"/v1/jobs/{job['id']}")  # 409: the job is running
    client.patch(f"/v1/jobs/{job['id']}", json={"priority": 3})  # 409
    client.delete(f"/v1/datasets/{job['spec']['train_dataset']}")  # 409
    client.post("/v1/jobs", json={**job["spec"], "base_model": "unknown"})  # 422
    adapter_id = world.publish(lease, {"adapter_config.json": b"{}"})
    url = f"/v1/adapters/{adapter_id}/files/adapter_config.json"
    etag = client.head(url).headers["etag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(url, headers={"Range": "bytes=99-"}).status_code == 416
    assert recorded_actions(client) == before


def test_replayed_requests_are_recorded_once(world: World, client: TestClient) -> None:
    for _ in range(2):
        upload = client.post(
            "/v1/datasets",
            content=pairs(3),
            headers={"Content-Type": "application/x-ndjson"},
        )
    spec = world.spec(train_dataset=upload.json()["id"])
    for _ in range(2):
        answer = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "once"})
        assert answer.status_code == 201
    assert [action for action, _ in recorded_actions(client)] == ["dataset.upload", "job.submit"]


def test_log_is_listed_in_pages_for_admins_of_the_tenant(
    world: World, client: TestClient, key_for: Callable[..., str]
) -> None:
    for _ in range(5):
        world.upload()
    pages, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = client.get("/v1/audit", params=query).json()
        pages.append([row["id"] for row in page["data"]])
        after = page["next"]
        if not page["has_more"]:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    ids = [row for page in pages for row in page]
    assert ids == sorted(ids, reverse=True)

    foreign = {"Authorization": f"Bearer {key_for('other')}"}
    assert client.get("/v1/audit", headers=foreign).json()["data"] == []
    writer = {"Authorization": f"Bearer {key_for('acme', Scope.JOBS_WRITE)}"}
    assert client.get("/v1/audit", headers=writer).status_code == 403


def test_actions_of_the_operator_have_no_key(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_DATABASE_URL", database_url)
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))
    first_key(engine, tmp_path)
    made = CliRunner().invoke(cli, ["keys", "create"])
    key_id = "key_" + made.stdout.split("_")[1]
    assert CliRunner().invoke(cli, ["keys", "revoke", key_id]).exit_code == 0
    with transaction(engine) as session:
        rows = list(session.scalars(select(AuditRecord).order_by(AuditRecord.id)))
    assert [row.action for row in rows] == ["api_key.create", "api_key.create", "api_key.revoke"]
    assert rows[1].object_id == rows[2].object_id == key_id
    assert {(row.tenant_id, row.key_id, row.request_id) for row in rows} == {
        ("default", None, None)
    }
