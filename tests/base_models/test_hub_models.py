"""Base models of a hub, against a small one on loopback."""

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


def test_branch_is_resolved_and_only_model_files_are_fetched(hub, tmp_path):
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


def test_tag_and_commit_name_their_own_files(hub, tmp_path):
    tagged = fetch(entry("hub:acme/tiny@v1"), tmp_path, endpoint=hub.endpoint)
    assert tagged.revision == OLD_COMMIT
    assert json.loads((tagged.path / "config.json").read_bytes())["old"] is True
    newer = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert digest(newer.path) != digest(tagged.path)


def test_planned_commit_is_fetched_although_the_branch_moved_on(hub, tmp_path):
    fetched = fetch(entry(TINY), tmp_path, revision=OLD_COMMIT, endpoint=hub.endpoint)
    assert fetched.revision == OLD_COMMIT


def test_cached_commit_needs_no_hub(hub, tmp_path):
    first = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.requests.clear()
    hub.status = (503, "")
    again = fetch(entry(TINY), tmp_path, revision=COMMIT, endpoint=hub.endpoint)
    assert again == first
    assert hub.requests == []


def test_fetches_at_once_download_once(hub, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fetch, entry(TINY), tmp_path, endpoint=hub.endpoint) for _ in range(4)]
        assert len({job.result() for job in jobs}) == 1
    assert hub.fetched("model.safetensors") == 1


def test_sharded_model_is_fetched_whole(hub, tmp_path):
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


def test_token_opens_a_private_repository(hub, tmp_path):
    hub.token = SECRET
    with pytest.raises(GatedModelError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert hub.authorizations == {None, f"Bearer {SECRET}"}


def test_token_of_the_environment_is_never_used(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert hub.authorizations == {None}


REFUSALS = [
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


@pytest.mark.parametrize(("answer", "kind", "is_retryable"), REFUSALS)
def test_refusal_has_its_own_error_and_keeps_the_token_secret(
    hub, tmp_path, caplog, capfd, answer, kind, is_retryable
):
    hub.status = answer
    with caplog.at_level(logging.INFO), pytest.raises(kind) as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert caught.value.failure.failure.is_retryable is is_retryable
    assert "acme/tiny" in str(caught.value)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in said + "".join(capfd.readouterr())


def test_gated_files_of_a_listed_repository_are_no_access(hub, tmp_path, caplog):
    hub.is_gated = True
    with pytest.raises(GatedModelError, match="gated or private") as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, token=SecretStr(SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_missing_repository_and_revision_are_named(hub, tmp_path):
    with pytest.raises(ModelNotFoundError, match="acme/other"):
        fetch(entry("hub:acme/other@main"), tmp_path, endpoint=hub.endpoint)
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        fetch(entry("hub:acme/tiny@v9"), tmp_path, endpoint=hub.endpoint)


def test_dead_hub_is_worth_another_try(hub, tmp_path):
    hub.server_close()
    hub.shutdown()
    with pytest.raises(SourceUnavailableError, match="could not be reached"):
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
        (model(quantization_config={"quant_method": "gptq"}), "quantization_config"),
        (model(**{"config.json": b"{nope"}), "not JSON"),
        (model(**{"config.json": b"[]"}), "not an object"),
        (model(**{"config.json": b"[" * 200_000}), "not JSON"),
        (model(**{"adapter_config.json": b"{}"}), "an adapter"),
        (model(**{"model.safetensors.index.json": b"{}"}), "no weight_map"),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}),
            "is refused",
        ),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "/etc/passwd"}}'}),
            "is refused",
        ),
        (
            model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'}),
            "missing",
        ),
        (model(**{"../escape.json": b"{}"}), "leaves the model"),
        (model(**{"a/../../escape.json": b"{}"}), "leaves the model"),
        (model(**{"/tmp/escape.json": b"{}"}), "leaves the model"),
        (model(**{"a\\..\\escape.json": b"{}"}), "leaves the model"),
        (model(**{f"{n}.png": b"" for n in range(2_000)}), "2006 files"),
        ({k: v for k, v in model().items() if k != "model.safetensors"}, "no model.safetensors"),
        ({k: v for k, v in model().items() if k != "config.json"}, "no config.json"),
    ],
)
def test_unsafe_snapshot_is_refused_and_not_kept(hub, tmp_path, files, reason):
    hub.commits[COMMIT] = files
    cache = tmp_path / "cache"
    with pytest.raises(BadSnapshotError, match=reason) as caught:
        fetch(entry(TINY), cache, endpoint=hub.endpoint)
    assert not caught.value.failure.failure.is_retryable
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not list(tmp_path.glob("*escape*"))


def test_model_larger_than_the_limit_is_refused_before_it_is_fetched(hub, tmp_path):
    with pytest.raises(BadSnapshotError, match="limit of 1000"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint, max_bytes=1000)
    assert hub.fetched("model.safetensors") == 0


def test_model_larger_than_the_disk_is_not_begun(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "app.base_models.sources.shutil.disk_usage",
        lambda path: type("Usage", (), {"free": 10})(),
    )
    with pytest.raises(DiskFullError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert hub.fetched("model.safetensors") == 0


def test_weights_damaged_on_the_way_are_fetched_again(hub, tmp_path):
    whole = hub.commits[COMMIT]["model.safetensors"]
    hub.damage = bytes(len(whole))
    with pytest.raises(SourceUnavailableError, match=r"model\.safetensors .* damaged"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.damage = None
    fetched = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert (fetched.path / "model.safetensors").read_bytes() == whole


def test_download_that_breaks_off_is_finished_by_the_next(hub, tmp_path):
    hub.break_after = 1_000
    with pytest.raises(SourceUnavailableError) as caught:
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert isinstance(caught.value, BaseModelError)
    hub.break_after = None
    fetched = fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    assert (fetched.path / "model.safetensors").read_bytes() == hub.commits[COMMIT][
        "model.safetensors"
    ]


def test_weights_that_are_not_those_of_the_catalogue_are_refused(hub, tmp_path):
    with pytest.raises(BadSnapshotError, match="the catalogue says"):
        fetch(entry(TINY, sha256="0" * 64), tmp_path, endpoint=hub.endpoint)


def test_answer_of_something_that_is_no_hub_is_worth_another_try(hub, tmp_path):
    hub.refs["main"] = "master"
    hub.commits["master"] = model()
    with pytest.raises(SourceUnavailableError, match="named no commit"):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
    hub.status = (200, "")
    with pytest.raises(SourceUnavailableError):
        fetch(entry(TINY), tmp_path, endpoint=hub.endpoint)
