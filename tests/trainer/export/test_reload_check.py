"""The reload in a fresh process finds broken adapters and reports its own failures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.domain.lifecycle import FailureCode
from app.domain.progress import Packaged
from tests.model_factories import ROOT
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import Outcome, run_trainer
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.trainer.export.reload_check import verify_package

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def order(llama: TinyBase) -> WorkOrder:
    return llama.order(count=24)


@pytest.fixture(scope="module")
def run(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("trained") / "work", order)


@pytest.fixture
def adapter(run: Outcome, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may break."""
    return Path(shutil.copytree(run.work / run.last(Packaged).directory, tmp_path / "copy"))


def test_changed_head_is_found(adapter: Path, order: WorkOrder) -> None:
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors["base_model.model.score.weight"] *= 1.01
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(TrainerError, match="after a reload scores differ") as failure:
        verify_package(adapter, Path(order.model_dir), device="cpu", threads=1)
    assert failure.value.code is FailureCode.SCORE_MISMATCH


def test_head_that_is_not_loaded_is_named(adapter: Path, order: WorkOrder) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"modules_to_save": None, "task_type": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(TrainerError, match=r"lacks the adapter's base_model.model.score"):
        verify_package(adapter, Path(order.model_dir), device="cpu", threads=1)


@pytest.mark.parametrize(
    ("program", "code", "detail"),
    [
        ("import os; os.kill(os.getpid(), 9)", FailureCode.TRAINER_CRASHED, "status -9"),
        ("raise MemoryError('no more')", FailureCode.OUT_OF_MEMORY, "MemoryError: no more"),
        ("raise KeyError('r')", FailureCode.SCORE_MISMATCH, "KeyError: 'r'"),
    ],
    ids=["killed", "out of memory", "bad files"],
)
def test_only_bad_files_are_a_score_mismatch(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    code: FailureCode,
    detail: str,
) -> None:
    """A verifying process that was killed or had no memory proves nothing about the adapter."""
    (tmp_path / "sitecustomize.py").write_text(
        "import worker.trainer.export.certificate as certificate\n"
        f"def certify(*_):\n    {program}\n"
        "certificate.certify = certify\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(TrainerError) as failure:
        verify_package(adapter, None, device="cpu", threads=1)
    assert failure.value.code is code
    assert detail in failure.value.detail


def test_command_prints_the_certificate(run: Outcome, adapter: Path, order: WorkOrder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.trainer.export.verify", adapter, "--base", order.model_dir],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == run.last(Packaged).certificate
