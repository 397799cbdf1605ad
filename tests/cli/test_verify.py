"""``plaudit verify`` scores the probes of an adapter on its base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.commands import app
from app.domain.progress import Packaged
from tests.base_models.model_sources import COMMIT, OLD_COMMIT, Hub, hub
from tests.model_factories.fixtures import llama
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import run_trainer
from worker.ipc.order import WorkOrder

__all__ = ["hub", "llama"]
pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def trained(llama: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny adapter, made by a worker with a local base model."""
    order = llama.order(count=8, eval_count=4, training={"epochs": 1})
    work = tmp_path_factory.mktemp("trained")
    done = run_trainer(work, order.model_copy(update={"model_name": "tiny"}))
    return work / str(done.last(Packaged).directory)


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the adapter that a test may change."""
    return shutil.copytree(trained, tmp_path / "adapter")


def verify(monkeypatch: pytest.MonkeyPatch, adapter: Path, source: str, *options: str) -> Result:
    """Configure a catalogue with one base model, ``tiny``."""
    catalogue = adapter.parent / "catalogue.yaml"
    catalogue.write_text(f"tiny: {{source: '{source}'}}")
    monkeypatch.setenv("PLAUDIT_BASE_MODELS", str(catalogue))
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(adapter.parent / "data"))
    return CliRunner().invoke(app, ["verify", str(adapter), *options])


def edit(adapter: Path, **changes: object) -> None:
    path = adapter / "reward_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_base_model_that_the_adapter_names_is_taken_from_the_catalogue(
    adapter: Path,
    llama: TinyBase,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    done = verify(monkeypatch, adapter, f"local:{llama.directory}")
    assert done.exit_code == 0, done.output
    assert "verified            yes" in done.stdout
    assert capfd.readouterr().err == ""  # no warnings of the libraries


def test_base_model_of_a_hub_is_taken_at_the_adapter_s_commit(
    adapter: Path, llama: TinyBase, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commits[OLD_COMMIT] = {
        path.name: path.read_bytes() for path in llama.directory.iterdir() if path.is_file()
    }
    assert hub.refs["main"] == COMMIT  # the branch has moved on to another model
    monkeypatch.setenv("PLAUDIT_HUB_ENDPOINT", hub.endpoint)
    edit(adapter, base_model="acme/tiny", revision=OLD_COMMIT)
    done = verify(monkeypatch, adapter, "hub:acme/tiny@main", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["is_verified"] is True


def test_scores_that_differ_are_told(
    adapter: Path, llama: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = adapter / "probes.jsonl"
    first, *others = path.read_text().splitlines()
    probe = json.loads(first)
    path.write_text("\n".join([json.dumps(probe | {"chosen_score": 99.0}), *others]))
    done = verify(monkeypatch, adapter, "local:/nowhere", "--base", str(llama.directory))
    assert done.exit_code == 1, done.output
    assert "verified            NO" in done.stdout


def remove(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("adapter_model.safetensors", remove, "is missing"),
        ("adapter_model.safetensors", cut_short, "is damaged: "),
        ("adapter_config.json", remove, "is missing"),
        ("probes.jsonl", add_a_byte, "is damaged: "),
    ],
)
def test_file_that_is_missing_or_damaged_is_named(
    adapter: Path,
    llama: TinyBase,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[Path], None],
    says: str,
) -> None:
    change(adapter / name)
    done = verify(monkeypatch, adapter, f"local:{llama.directory}")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{adapter} could not be loaded and scored: {name} {says}")
    assert "Traceback" not in capfd.readouterr().err


def test_summary_that_cannot_be_read_is_named(
    adapter: Path, llama: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapter / "reward_model.json").write_text("{")
    done = verify(monkeypatch, adapter, f"local:{llama.directory}")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{adapter / 'reward_model.json'} cannot be read: ")


def test_merged_model_is_verified_without_a_base_and_its_lost_weights_are_named(
    trained: Path, llama: TinyBase, tmp_path: Path
) -> None:
    order = WorkOrder(
        action="merge",
        model_dir=str(llama.directory),
        model_name="tiny",
        adapter=str(trained),
    )
    done = run_trainer(tmp_path / "work", order)
    merged = tmp_path / "work" / str(done.last(Packaged).directory)
    verified = CliRunner().invoke(app, ["verify", str(merged)])
    assert verified.exit_code == 0, verified.output
    remove(merged / "model.safetensors")
    lost = CliRunner().invoke(app, ["verify", str(merged)])
    assert lost.exit_code == 1
    assert "model.safetensors is missing" in lost.stderr


def test_adapter_of_an_unknown_base_model_asks_for_it(
    adapter: Path, llama: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(adapter, base_model="other")
    done = verify(monkeypatch, adapter, f"local:{llama.directory}")
    assert done.exit_code == 2
    assert "base model is other" in done.stderr
    assert "--base" in done.stderr


def test_directory_without_an_adapter_is_a_usage_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "reward_model.json" in done.stderr
