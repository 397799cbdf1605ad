"""Pushes of adapters to a hub on loopback, by a real worker, through the API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.core.settings import Settings
from tests.pushes.hub import COMMIT, PART_BYTES, TOKEN, Hub
from tests.services import wait_until
from tests.supervisor.conftest import workshop
from tests.supervisor.workshop import Workshop
from tests.world import World

__all__ = ["workshop"]

FILES = {
    "README.md": b"---\nlibrary_name: peft\n---\n# Card",
    "adapter_model.safetensors": b"weights" * 1000,
}
LARGE_FILES = FILES | {
    "adapter_model.safetensors": Random(0).randbytes(PART_BYTES),  # in one piece
    "extra.safetensors": Random(1).randbytes(2 * PART_BYTES + 7),  # in three parts
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(settings: Settings, workshop: Workshop, hub: Hub) -> Settings:
    changes = {
        "hub_endpoint": hub.url,
        "hub_token": SecretStr(TOKEN),
        "max_failures": 1,
    }
    workshop.settings = workshop.settings.model_copy(update=changes)
    return settings


@pytest.fixture
def path(world: World, job: dict[str, Any]) -> str:
    """Return the path of the pushes of an adapter."""
    return f"/v1/adapters/{world.publish(world.claim(), FILES)}/push"


def pushed(client: TestClient, shop: Workshop, path: str) -> dict[str, Any]:
    """Wait for the end of a push, and return it."""
    with shop.running_pool():
        wait_until("the push", lambda: client.get(path).json()["finished_at"] is not None)
    return dict(client.get(path).json())


def test_adapter_is_committed_to_a_private_repository(
    client: TestClient, workshop: Workshop, hub: Hub, path: str
) -> None:
    assert client.get(path).json()["code"] == "push_not_found"
    for _ in range(2):  # the second time the repository exists
        answer = client.post(path, json={"repo": "acme/rewards"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        done = pushed(client, workshop, path)
        assert (done["failure"], done["status"], done["commit"]) == (None, "succeeded", COMMIT)
    assert hub.repositories["acme/rewards"]["visibility"] == "private"
    assert hub.files == FILES


# huggingface_hub 2.4 itself uses a deprecated interface of httpx2.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
@pytest.mark.parametrize("failures", [0, 2])
def test_large_files_are_uploaded_before_the_commit(
    client: TestClient,
    world: World,
    job: dict[str, Any],
    workshop: Workshop,
    hub: Hub,
    failures: int,
) -> None:
    assert job["status"] == "queued"
    hub.failures = failures  # uploads to the storage, which the client retries
    path = f"/v1/adapters/{world.publish(world.claim(), LARGE_FILES)}/push"
    for _ in range(2):  # the second time the large files exist
        assert client.post(path, json={"repo": "acme/rewards"}).status_code == 202
        done = pushed(client, workshop, path)
        assert (done["failure"], done["status"], done["commit"]) == (None, "succeeded", COMMIT)
        assert hub.files == LARGE_FILES
    assert len(hub.verified) == 2
    assert hub.leaked == []


@pytest.mark.parametrize(("status", "code"), [(403, "gated_no_access"), (404, "source_not_found")])
def test_refusal_of_the_hub_is_told_without_the_token(
    client: TestClient, workshop: Workshop, hub: Hub, path: str, status: int, code: str
) -> None:
    hub.status = status
    client.post(path, json={"repo": "acme/rewards"})
    done = pushed(client, workshop, path)
    assert done["failure"]["code"] == code
    assert TOKEN not in json.dumps(done)


def test_only_repositories_of_the_allow_list_are_written_to(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"repo": "other/rewards"})
    assert (answer.status_code, answer.json()["code"]) == (422, "target_not_allowed")
    assert answer.json()["errors"][0]["loc"] == "/repo"
