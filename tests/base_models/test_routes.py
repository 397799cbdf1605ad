"""Base models over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from app.core.settings import Settings
from app.main import create_app
from tests.world import World


def test_base_model_shows_the_facts_of_its_inspection(world: World, client: TestClient) -> None:
    path = "/v1/base-models/all-minilm-l6-v2"
    before = client.get(path).json()
    assert (before["is_inspected"], before["architecture"]) == (False, None)
    world.know_base_model()
    after = client.get(path).json()
    assert after["is_inspected"] is True
    assert after["head_modules"] == ["classifier"]
    assert (after["max_length"], after["default_targets"]) == (256, ["query", "value"])
    listed = client.get("/v1/base-models").json()["data"]
    assert after in listed
    assert client.get("/v1/base-models/nope").json()["code"] == "base_model_not_found"


def test_local_base_model_does_not_show_its_path(
    settings: Settings, key_for: Callable[..., str], tmp_path: Any
) -> None:
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text("house:\n  source: local:/srv/secret/place\n")
    with TestClient(create_app(settings.model_copy(update={"base_models": catalogue}))) as client:
        client.headers["Authorization"] = f"Bearer {key_for('acme')}"
        answer = client.get("/v1/base-models/house")
    assert answer.json()["source"] == "local"
    assert "secret" not in answer.text
