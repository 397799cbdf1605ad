"""Base models from a hub, tested against a small hub server on loopback."""

from __future__ import annotations

import json
import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.base_models.errors import (
    BadSnapshotError,
    BaseModelError,
    DiskFullError,
    GatedModelError,
    ModelNotFoundError,
    SourceUnavailableError,
)
from app.base_models.snapshot import digest, model_files
from app.base_models.sources import fetch
from tests.base_models.model_sources import COMMIT, OLD_COMMIT, entry, model, safetensors

TINY = "hub:acme/tiny@main"
SECRET = "hf_canaryCANARYcanary"


def names(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*")}


def test_branch_is_resolved_and_only_model_files_are_downloaded(hub, tmp_path):
    fetched = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert fetched.revision == COMMIT
    assert names(fetched.path) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in model_files(fetched.path):
        assert (fetched.path / name).read_bytes() == hub.commits[COMMIT][name]
        assert not (fetched.path / name).is_symlink()


def test_tag_is_resolved_to_its_own_files(hub, tmp_path):
    tagged = fetch(entry("hub:acme/tiny@v1"), tmp_path, endpoint=hub.endpoint)
    assert tagged.revision == OLD_COMMIT
    assert json.loads((tagged.path / "config.json").read_bytes())["old"] is True
    newer = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert digest(newer.path) != digest(tagged.path)


def test_planned_commit_is_downloaded_after_the_branch_moved(hub, tmp_path):
    fetched = fetch(entry(TINY), tmp_path, revision=OLD_COMMIT, endpoint=hub.endpoint)
    assert fetched.revision == OLD_COMMIT


def test_cached_commit_needs_no_request(hub, tmp_path):
    first = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.requests.clear()
    hub.status = (503, "")
    again = fetch(entry(TINY), tmp_path, revision=COMMIT, endpoint=hub.endpoint)
    assert again == first
    assert hub.requests == []


def test_concurrent_fetches_download_the_model_once(hub, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fetch, entry(TINY), tmp_path, endpoint=hub.endpoint) for _ in range(4)]
        assert len({job.result() for job in jobs}) == 1
    assert hub.fetched("model.safetensors") == 1


def test_all_shards_are_downloaded(hub, tmp_path):
    files = model() | {
        "model-00001-of-00002.safetensors": safetensors(b"one"),
        "model-00002-of-00002.safetensors": safetensors(b"two"),
        "model.safetensors.index.json": json.dumps(
            {
                "weight_map": {
                    "a": "model-00001-of-00002.safetensors",
                    "b": "model-00002-of-00002.safetensors",
                }
            }
        ).encode(),
        "onnx/model.safetensors": b"not at the top",
    }
    del files["model.safetensors"]
    hub.commits[COMMIT] = files
    path = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint).path
    assert (path / "model-00002-of-00002.safetensors").read_bytes() == safetensors(b"two")
    assert not (path / "onnx").exists()


def test_token_gives_access_to_a_private_repository(hub, tmp_path):
    hub.token = SECRET
    with pytest.raises(GatedModelError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert hub.authorizations == {None, f"Bearer {SECRET}"}


def test_token_of_the_environment_is_never_used(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert hub.authorizations == {None}


HUB_ERRORS = [
    ((401, "RepoNotFound"), GatedModelError, False),
    ((403, "GatedRepo"), GatedModelError, False),
    ((401, "GatedRepo"), GatedModelError, False),
    ((403, ""), GatedModelError, False),
    ((404, "RepoNotFound"), ModelNotFoundError, False),
    ((404, "RevisionNotFound"), ModelNotFoundError, False),
    ((404, ""), ModelNotFoundError, False),
    ((429, ""), SourceUnavailableError, True),
    ((500, ""), SourceUnavailableError, True),
    ((502, ""), SourceUnavailableError, True),
    ((503, ""), SourceUnavailableError, True),
]


@pytest.mark.parametrize(("response", "error", "is_retryable"), HUB_ERRORS)
def test_hub_error_is_translated_without_the_token(
    hub, tmp_path, caplog, capfd, response, error, is_retryable
):
    hub.status = response
    with caplog.at_level(logging.INFO), pytest.raises(error) as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert caught.value.failure.failure.is_retryable is is_retryable
    assert "acme/tiny" in str(caught.value)
    output = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in output + "".join(capfd.readouterr())


def test_repository_that_is_listed_but_gated_is_reported_as_gated(hub, tmp_path, caplog):
    hub.is_gated = True
    with pytest.raises(GatedModelError, match="gated or private") as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_error_names_a_missing_repository_or_revision(hub, tmp_path):
    with pytest.raises(ModelNotFoundError, match="acme/other"):
        fetch(entry("hub:acme/other@main"), tmp_path, endpoint=hub.endpoint)
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        fetch(entry("hub:acme/tiny@v9"), tmp_path, endpoint=hub.endpoint)


def test_unreachable_hub_is_a_retryable_error(hub, tmp_path):
    hub.server_close()
    hub.shutdown()
    with pytest.raises(SourceUnavailableError, match="is unreachable"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (model(**{"modeling_tiny.py": b"import os"}), "Python code"),
        (model(**{"lib/evil.py": b"import os"}), "Python code"),
        (model(auto_map={"AutoModel": "modeling.Tiny"}), "auto_map"),
        (model(**{"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": []}}'}), "auto_map"),
        (model(_attn_implementation_internal="evil/kernel"), "_attn_implementation_internal"),
        (model(attn_implementation="evil/kernel"), "attn_implementation"),
        (model(text_config={"_attn_implementation": "x/y"}), "_attn_implementation"),
        (model(attn_implementation={"": "sdpa", "vision": "x/y@v1"}), "attn_implementation"),
        (model(quantization_config={"quant_method": "gptq"}), "quantization_config"),
        (model(**{"config.json": b"{nope"}), "not valid JSON"),
        (model(**{"config.json": b"[]"}), "not a JSON object"),
        (model(**{"config.json": b"[" * 200_000}), "not valid JSON"),
        (model(**{"adapter_config.json": b"{}"}), "an adapter"),
        (model(**{"model.safetensors.index.json": b"{}"}), "no weight_map"),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}),
            "not a safetensors file",
        ),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "/etc/passwd"}}'}),
            "not a safetensors file",
        ),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'}),
            "missing",
        ),
        (model(**{"../escape.json": b"{}"}), "leaves the directory"),
        (model(**{"a/../../escape.json": b"{}"}), "leaves the directory"),
        (model(**{"/tmp/escape.json": b"{}"}), "leaves the directory"),
        (model(**{"a\\..\\escape.json": b"{}"}), "leaves the directory"),
        (model(**{f"{n}.png": b"" for n in range(2_000)}), "2006 files"),
        ({k: v for k, v in model().items() if k != "model.safetensors"}, "no model.safetensors"),
        ({k: v for k, v in model().items() if k != "config.json"}, "no config.json"),
        ({"tiny-Q4_K_M.gguf": b"GGUF", "README.md": b""}, "in GGUF files"),
        ({"tiny.gguf": b"GGUF", "config.json": b"{}"}, "in GGUF files"),
    ],
)
def test_unsafe_model_is_rejected_and_deleted(hub, tmp_path, files, reason):
    hub.commits[COMMIT] = files
    cache = tmp_path / "cache"
    with pytest.raises(BadSnapshotError, match=reason) as caught:
        fetch(entry(TINY), cache, endpoint=hub.endpoint)
    assert not caught.value.failure.failure.is_retryable
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not list(tmp_path.glob("*escape*"))


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation_autoset": True},  # transformers 4.46 to 4.51 wrote it
        {"_attn_implementation": "flash_attention_2"},
        {"text_config": {"attn_implementation": "sdpa"}, "attn_implementation": {"": "eager"}},
        {"_experts_implementation": "grouped_mm"},
    ],
)
def test_kernel_of_transformers_itself_is_no_foreign_code(hub, tmp_path, settings):
    hub.commits[COMMIT] = model(**settings)
    assert fetch(entry(TINY), tmp_path, endpoint=hub.endpoint).path.is_dir()


def test_too_large_model_is_rejected_before_the_download(hub, tmp_path):
    with pytest.raises(BadSnapshotError, match="limit is 1000"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, max_bytes=1000)
    assert hub.fetched("model.safetensors") == 0


def test_model_that_does_not_fit_on_the_disk_is_not_downloaded(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "app.base_models.sources.shutil.disk_usage",
        lambda path: type("Usage", (), {"free": 10})(),
    )
    with pytest.raises(DiskFullError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert hub.fetched("model.safetensors") == 0


def test_damaged_weights_are_downloaded_again(hub, tmp_path):
    whole = hub.commits[COMMIT]["model.safetensors"]
    hub.damage = bytes(len(whole))
    with pytest.raises(SourceUnavailableError, match=r"model\.safetensors .* damaged"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.damage = None
    fetched = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert (fetched.path / "model.safetensors").read_bytes() == whole


def test_interrupted_download_is_continued(hub, tmp_path):
    hub.break_after = 1_000
    with pytest.raises(SourceUnavailableError) as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert isinstance(caught.value, BaseModelError)
    hub.break_after = None
    fetched = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert (fetched.path / "model.safetensors").read_bytes() == hub.commits[COMMIT][
        "model.safetensors"
    ]


def test_weights_with_a_different_sha256_are_rejected(hub, tmp_path):
    with pytest.raises(BadSnapshotError, match="the catalogue has"):
        fetch(entry(TINY, sha256="0" * 64), tmp_path, endpoint=hub.endpoint)


def test_response_of_another_server_is_a_retryable_error(hub, tmp_path):
    hub.refs["main"] = "master"
    hub.commits["master"] = model()
    with pytest.raises(SourceUnavailableError, match="returned no commit"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.status = (200, "")
    with pytest.raises(SourceUnavailableError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
