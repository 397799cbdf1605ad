"""Base models under /hub: refused, redirected to their hub, or served as files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.core.settings import Settings
from tests.base_models.model_sources import COMMIT, OLD_COMMIT, Hub, hub
from tests.base_models.model_sources import model as tiny_model
from tests.hub_api.test_hub_api import LOAD
from tests.model_factories.tiny_models import make_decoder
from tests.site import Site
from tests.world import World

__all__ = ["hub"]

MODEL_FILES = {
    name: content
    for name, content in tiny_model().items()
    if name.endswith((".json", ".safetensors"))
}


@pytest.fixture
def key(key_for: Callable[..., str]) -> str:
    return key_for("acme")


@pytest.fixture
def local_model(tmp_path: Path) -> Path:
    """A model on the operator's disk; one of its files is a link to another directory."""
    path = tmp_path / "local"
    path.mkdir()
    for name, content in tiny_model().items():
        (path / name).write_bytes(content)
    (tmp_path / "secret.json").write_text("{}")
    (path / "leak.json").symlink_to(tmp_path / "secret.json")
    return path


@pytest.fixture
def serve(settings: Settings, tmp_path: Path, hub: Hub, local_model: Path) -> Callable[[str], Any]:
    """Start the service with a catalogue and a mode for base models: ``with serve(mode)``."""
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text(f"""
tiny: {{source: "hub:acme/tiny@v1"}}
pinned: {{source: "hub:acme/pinned@{COMMIT}"}}
on-disk: {{source: "local:{local_model}"}}
gone: {{source: "local:{tmp_path}/gone"}}
""")
    pinned = settings.model_cache / "hub" / "acme--pinned" / COMMIT
    pinned.mkdir(parents=True)
    for name, content in MODEL_FILES.items():
        (pinned / name).write_bytes(content)
    changes = {"base_models": catalogue, "hub_endpoint": hub.endpoint}

    @contextmanager
    def start(mode: str) -> Iterator[Site]:
        site = Site(settings.model_copy(update={**changes, "hub_base_models": mode}))
        site.start()
        try:
            yield site
        finally:
            site.stop()

    return start


def test_base_models_are_refused_unless_the_operator_offers_them(
    settings: Settings, serve: Callable[[str], Any], key: str, tmp_path: Path
) -> None:
    assert settings.hub_base_models == "refuse"
    with serve("refuse") as site:
        for name in ("acme/pinned", "on-disk", "openai/unknown"):
            with pytest.raises(RepositoryNotFoundError, match="base models are not served"):
                hf_hub_download(
                    name, "config.json", endpoint=f"{site.url}/hub", token=key, cache_dir=tmp_path
                )
        answer = httpx.get(
            f"{site.url}/hub/acme/pinned/resolve/main/config.json",
            headers={"Authorization": f"Bearer {key}"},
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "base_model_elsewhere")
        assert "ask the operator" in answer.json()["hint"]


@pytest.mark.parametrize("name", ["acme/pinned", "pinned", "on-disk"])
def test_files_on_the_disk_are_served(
    serve: Callable[[str], Any], key: str, tmp_path: Path, name: str
) -> None:
    with serve("files") as site:
        endpoint = f"{site.url}/hub"
        api = HfApi(endpoint, token=key)
        folder = snapshot_download(name, endpoint=endpoint, token=key, cache_dir=tmp_path / "cache")
        found = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
        assert found == MODEL_FILES  # without the card, the pickle and the link
        commit = api.model_info(name).sha
        assert name == "on-disk" or commit == COMMIT
        for revision in ("main", commit):
            assert {file.path for file in api.list_repo_tree(name, revision=revision)} == set(found)
        part = httpx.get(
            f"{endpoint}/{name}/resolve/main/model.safetensors",
            headers={"Authorization": f"Bearer {key}", "Range": "bytes=5-9"},
        )
        assert (part.status_code, part.content) == (206, MODEL_FILES["model.safetensors"][5:10])
        assert "repr-digest" not in part.headers  # no digest was computed
        assert httpx.get(f"{endpoint}/{name}/resolve/main/config.json").status_code == 401
        outside = httpx.get(
            f"{endpoint}/{name}/resolve/main/%2e%2e%2fsecret.json",
            headers={"Authorization": f"Bearer {key}"},
        )
        assert outside.status_code == 404


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"repo_id": "acme/unknown"}, RepositoryNotFoundError),
        ({"repo_id": "gone"}, RepositoryNotFoundError),
        ({"repo_id": "acme/tiny"}, RepositoryNotFoundError),  # no worker has fetched it
        ({"revision": OLD_COMMIT}, RevisionNotFoundError),
        ({"filename": "pytorch_model.bin"}, RemoteEntryNotFoundError),
        ({"filename": "leak.json"}, RemoteEntryNotFoundError),
    ],
    ids=str,
)
def test_what_is_not_a_file_of_the_model_is_not_served(
    serve: Callable[[str], Any],
    key: str,
    tmp_path: Path,
    wanted: dict[str, str],
    error: type[Exception],
) -> None:
    asked = {"repo_id": "on-disk", "filename": "config.json"} | wanted
    with serve("files") as site, pytest.raises(error):
        hf_hub_download(**asked, endpoint=f"{site.url}/hub", token=key, cache_dir=tmp_path)


def test_redirect_leads_to_the_hub_and_keeps_the_key_here(
    serve: Callable[[str], Any], key: str, hub: Hub, tmp_path: Path
) -> None:
    with serve("redirect") as site:
        endpoint = f"{site.url}/hub"
        folder = snapshot_download(
            "acme/tiny", endpoint=endpoint, token=key, cache_dir=tmp_path / "cache"
        )
        files = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
        assert files["config.json"] == hub.commits[OLD_COMMIT]["config.json"]
        assert files.keys() == MODEL_FILES.keys()
        assert HfApi(endpoint, token=key).model_info("acme/tiny").sha == OLD_COMMIT
        assert hub.fetched("config.json") == 1
        assert hub.authorizations == {None}
        headers = {"Authorization": f"Bearer {key}"}
        moved = httpx.get(f"{endpoint}/acme/tiny/resolve/v1/config.json", headers=headers)
        assert moved.status_code == 307
        assert (
            moved.headers["location"]
            == f"{hub.endpoint}/acme/tiny/resolve/{OLD_COMMIT}/config.json"
        )
        local = httpx.get(f"{endpoint}/on-disk/resolve/main/config.json", headers=headers)
        assert (local.status_code, local.json()["code"]) == (404, "base_model_elsewhere")


def test_hub_that_is_away_is_told(serve: Callable[[str], Any], key: str, hub: Hub) -> None:
    hub.status = (500, "Broken")
    with serve("redirect") as site:
        answer = httpx.get(
            f"{site.url}/hub/acme/tiny/resolve/main/config.json",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        hub.status = None  # a failure is not cached
        answer = httpx.get(
            f"{site.url}/hub/acme/tiny/resolve/main/config.json",
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 307


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_peft_loads_base_and_adapter_from_one_endpoint(
    serve: Callable[[str], Any],
    key: str,
    world: World,
    job: dict[str, Any],
    local_model: Path,
    tmp_path: Path,
) -> None:
    """A new interpreter with only HF_ENDPOINT and HF_TOKEN set."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    assert job["status"] == "queued"
    for path in local_model.iterdir():
        path.unlink()
    make_decoder(local_model)
    model = AutoModelForSequenceClassification.from_pretrained(local_model, num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"],
                        init_lora_weights=False)  # fmt: skip
    trained = get_peft_model(model, config).eval()
    trained.save_pretrained(tmp_path / "adapter")
    files = {p.name: p.read_bytes() for p in (tmp_path / "adapter").iterdir()}
    adapter_id = world.publish(world.claim(), files)
    expected = trained(torch.tensor([[1, 2, 3]])).logits.item()
    with serve("files") as site:
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"{site.url}/hub",
            "HF_TOKEN": key,
            "HF_HOME": str(tmp_path / "home"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", LOAD, "on-disk", adapter_id],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)
