"""Merged exports over HTTP."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.core.database import transaction
from app.domain.lifecycle import FailureCode
from app.models import Adapter
from tests.world import World


def test_merged_export_is_made_once_and_refused_for_quantised_bases(
    world: World, client: TestClient, engine: Engine, job: dict[str, Any]
) -> None:
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    path = f"/v1/adapters/{adapter_id}/merge"
    assert client.get(path).json()["code"] == "merge_not_found"
    asked = client.post(path)
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    assert client.post(path).json()["id"] == asked.json()["id"]
    assert client.get(path).json()["id"] == asked.json()["id"]
    assert client.get(f"/v1/jobs/{asked.json()['id']}").status_code == 404
    world.fail(world.claim(), FailureCode.SCORE_MISMATCH, "scores differ")
    assert client.get(path).json()["failure"] == "scores differ"
    with transaction(engine) as session:
        session.execute(update(Adapter).values(summary={"quantization": "4bit"}))
    assert client.post(path).json()["code"] == "merge_inexact"
    assert client.post("/v1/adapters/ad_" + "0" * 32 + "/merge").status_code == 404


def test_deleted_merged_export_can_be_requested_again(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    path = f"/v1/adapters/{world.publish(world.claim(), {'adapter_config.json': b'{}'})}/merge"
    first = client.post(path).json()
    merged_id = world.publish(world.claim(), {"model.safetensors": b"{}"}, is_merged=True)
    assert client.post(path).json() == first | {"status": "succeeded", "adapter_id": merged_id}
    assert client.delete(f"/v1/adapters/{merged_id}").status_code == 204
    again = client.post(path).json()
    assert (again["id"] != first["id"], again["status"]) == (True, "queued")


def test_merged_export_is_not_merged_again(
    world: World, client: TestClient, job: dict[str, Any]
) -> None:
    adapter_id = world.publish(world.claim(), {"adapter_config.json": b"{}"})
    client.post(f"/v1/adapters/{adapter_id}/merge")
    merged_id = world.publish(world.claim(), {"model.safetensors": b"{}"}, is_merged=True)
    answer = client.post(f"/v1/adapters/{merged_id}/merge")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_merged")
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/adapters/{merged_id}").status_code == 200  # it is the tenant's own
    assert client.post(f"/v1/adapters/{merged_id}/merge").json()["code"] == "already_merged"
    assert client.post(f"/v1/adapters/{adapter_id}/merge").status_code == 404
