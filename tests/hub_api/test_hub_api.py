"""The real clients of a model hub download adapters from the service, unmodified."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from starlette.testclient import TestClient

from app.core.settings import Settings
from tests.model_factories.tiny_models import make_decoder
from tests.site import Site
from tests.world import World

FILES = {
    "README.md": b"# Card",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": Random(0).randbytes(3_000_000),
    "reward_model.json": b'{"format": 1}',
}
LOAD = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
print(model(torch.tensor([[1, 2, 3]])).logits.item())
"""


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    site = Site(settings)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def key(key_for: Callable[..., str]) -> str:
    return key_for("acme")


@pytest.fixture
def adapter_id(world: World, job: dict[str, Any]) -> str:
    return world.publish(world.claim(), FILES)


def test_snapshot_is_downloaded_whole(
    site: Site, key: str, adapter_id: str, tmp_path: Path
) -> None:
    endpoint = f"{site.url}/hub"
    for folder in (
        snapshot_download(adapter_id, endpoint=endpoint, token=key, cache_dir=tmp_path / "cache"),
        snapshot_download(adapter_id, endpoint=endpoint, token=key, local_dir=tmp_path / "local"),
    ):
        found = {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}
        assert found == FILES
    info = HfApi(endpoint, token=key).model_info(adapter_id, files_metadata=True)
    assert {s.rfilename: s.size for s in info.siblings or ()} == {
        k: len(v) for k, v in FILES.items()
    }
    (branch,) = HfApi(endpoint, token=key).list_repo_refs(adapter_id).branches
    assert (branch.name, branch.target_commit) == ("main", info.sha)
    pinned = hf_hub_download(
        adapter_id, "README.md", revision=info.sha, endpoint=endpoint, token=key,
        cache_dir=tmp_path / "pinned",
    )  # fmt: skip
    assert Path(pinned).read_bytes() == FILES["README.md"]
    folder = HfApi(endpoint, token=key).list_repo_tree(
        adapter_id, path_in_repo="additional_chat_templates"
    )
    with pytest.raises(RemoteEntryNotFoundError):  # transformers asks for it
        list(folder)


def test_files_are_looked_up_by_the_client(site: Site, key: str, adapter_id: str) -> None:
    api = HfApi(f"{site.url}/hub", token=key)
    names = ["README.md", "adapter_model.safetensors", "missing.json", "additional_chat_templates"]
    found = {info.path: info for info in api.get_paths_info(adapter_id, names, expand=True)}
    assert (
        {name: info.size for name, info in found.items()}
        == {  # type: ignore[union-attr]
            name: len(FILES[name]) for name in names[:2]
        }
    )
    listed = {file.path: file for file in api.list_repo_tree(adapter_id)}
    assert found == {name: listed[name] for name in found}
    commit = api.model_info(adapter_id).sha
    (readme,) = api.get_paths_info(adapter_id, "README.md", revision=commit)
    assert readme == found["README.md"]
    assert api.list_repo_files(adapter_id) == sorted(FILES)
    assert api.file_exists(adapter_id, "README.md")
    assert not api.file_exists(adapter_id, "missing.json")
    assert api.repo_exists(adapter_id)
    assert not api.revision_exists(adapter_id, "v2")
    with pytest.raises(RepositoryNotFoundError):
        api.get_paths_info(f"ad_{'0' * 32}", "README.md")
    with pytest.raises(RevisionNotFoundError):
        api.get_paths_info(adapter_id, "README.md", revision="v2")


def test_lookups_of_files_are_bounded(client: TestClient, adapter_id: str) -> None:
    url = f"/hub/api/models/{adapter_id}/paths-info/main"
    assert client.post(url, data={"paths": ["README.md"] * 1000}).status_code == 200
    assert client.post(url, data={"paths": ["README.md"] * 1001}).status_code == 400
    assert client.post(url, data={}).status_code == 422
    assert client.post(url, data={"paths": ["x" * 300_000]}).status_code == 413
    other = client.post(f"/hub/api/models/{adapter_id}/commit/main", data={"paths": ["a"]})
    assert (other.status_code, other.headers["x-error-code"]) == (404, "RepoNotFound")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"repo_id": f"ad_{'0' * 32}"}, RepositoryNotFoundError),
        ({"repo_id": "acme/base-model"}, RepositoryNotFoundError),
        ({"filename": "missing.json"}, RemoteEntryNotFoundError),
        ({"filename": "additional_chat_templates/README.md"}, RemoteEntryNotFoundError),
        ({"revision": "v2"}, RevisionNotFoundError),
        ({"token": "other"}, RepositoryNotFoundError),
    ],
)
def test_what_is_not_there_is_an_error_of_the_client(
    site: Site,
    key: str,
    adapter_id: str,
    tmp_path: Path,
    key_for: Callable[..., str],
    change: dict[str, str],
    error: type[Exception],
) -> None:
    if "token" in change:  # the adapter of another tenant
        change = {"token": key_for("intruder")}
    wanted = {"repo_id": adapter_id, "filename": "README.md", "token": key} | change
    with pytest.raises(error):
        hf_hub_download(**wanted, endpoint=f"{site.url}/hub", cache_dir=tmp_path)


def test_ranges_are_served_and_keys_are_needed(
    client: TestClient, anonymous: TestClient, adapter_id: str
) -> None:
    url = f"/hub/{adapter_id}/resolve/main/adapter_model.safetensors"
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, FILES["adapter_model.safetensors"][10:20])
    for path in (url, f"/hub/api/models/{adapter_id}"):
        assert httpx.codes.is_success(client.get(path).status_code)
        assert anonymous.get(path, headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("name", ["ad_%00", "ad_x%0DX-Evil:%201", "ad_%F0%9F%98%80", "a%0D/b%00"])
def test_name_of_a_repository_cannot_break_the_response(client: TestClient, name: str) -> None:
    for path in (f"/hub/{name}/resolve/main/x", f"/hub/api/models/{name}"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
        assert all(value.isascii() and value.isprintable() for value in answer.headers.values())


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_peft_loads_an_adapter_with_its_own_settings(
    site: Site, key: str, world: World, job: dict[str, Any], tmp_path: Path
) -> None:
    """A new interpreter with only HF_ENDPOINT set."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = make_decoder(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"],
                        init_lora_weights=False)  # fmt: skip
    trained = get_peft_model(model, config).eval()
    trained.save_pretrained(tmp_path / "adapter")
    files = {p.name: p.read_bytes() for p in (tmp_path / "adapter").iterdir()}
    adapter_id = world.publish(world.claim(), files)
    expected = trained(torch.tensor([[1, 2, 3]])).logits.item()
    assert isinstance(trained, PeftModel)
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"{site.url}/hub",
        "HF_TOKEN": key,
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(base), adapter_id],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)
