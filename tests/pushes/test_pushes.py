"""Pushes of adapters to a hub on loopback, by a real worker, through the API."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.core.settings import Settings
from tests.services import wait_until
from tests.supervisor.conftest import workshop
from tests.supervisor.workshop import Workshop
from tests.world import World

__all__ = ["workshop"]

FILES = {
    "README.md": b"---\nlibrary_name: peft\n---\n# Card",
    "adapter_model.safetensors": b"weights" * 1000,
}
COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_canaryCANARYcanary"


class Hub(ThreadingHTTPServer):
    """The part of the hub's API that ``create_repo`` and ``create_commit`` use."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.status = 200


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["content-length"]))
        path = self.path.partition("?")[0]
        if self.headers["authorization"] != f"Bearer {TOKEN}" or hub.status != 200:
            return self._answer(hub.status if hub.status != 200 else 401, {})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, asked)
            return self._answer(status, {"url": f"http://127.0.0.1:{hub.server_port}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        assert path == "/api/models/acme/rewards/commit/main"
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                hub.files[value["path"]] = base64.b64decode(value["content"])
        url = f"http://127.0.0.1:{hub.server_port}/acme/rewards/commit/{COMMIT}"
        return self._answer(200, {"commitOid": COMMIT, "commitUrl": url})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


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
        "hub_endpoint": f"http://127.0.0.1:{hub.server_port}",
        "hub_token": SecretStr(TOKEN),
        "max_failures": 1,
    }
    workshop.settings = workshop.settings.model_copy(update=changes)
    return settings


@pytest.fixture
def path(world: World, job: dict[str, Any]) -> str:
    """Of the pushes of an adapter."""
    return f"/v1/adapters/{world.publish(world.claim(), FILES)}/push"


def pushed(client: TestClient, shop: Workshop, path: str) -> dict[str, Any]:
    """The push once it has ended."""
    with shop.running_pool():
        wait_until("the push", lambda: client.get(path).json()["finished_at"] is not None)
    return dict(client.get(path).json())


def test_adapter_is_committed_to_a_private_repository(
    client: TestClient, workshop: Workshop, hub: Hub, path: str
) -> None:
    assert client.get(path).json()["code"] == "push_not_found"
    for _ in range(2):  # the second time the repository is there
        answer = client.post(path, json={"repo": "acme/rewards"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        done = pushed(client, workshop, path)
        assert (done["failure"], done["status"], done["commit"]) == (None, "succeeded", COMMIT)
    assert hub.repositories["acme/rewards"]["visibility"] == "private"
    assert hub.files == FILES


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
