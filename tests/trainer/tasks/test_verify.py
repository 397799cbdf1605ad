"""A new process detects broken adapters and distinguishes them from failures of its machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.domain.lifecycle import FailureCode
from app.domain.progress import Packaged, Verified
from tests.model_factories import ROOT
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import Outcome, RecordingChannel, run_trainer
from worker.ipc.order import VERIFY, WorkOrder
from worker.reward_model.errors import TrainerError
from worker.trainer.tasks import verify

# A trainer ignores the warnings of its libraries, and sends no request to the hub.
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


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


def verify_order(order: WorkOrder, adapter: Path) -> WorkOrder:
    return order.model_copy(update={"action": VERIFY, "adapter": str(adapter)})


def failure_of(order: WorkOrder, adapter: Path, channel: RecordingChannel) -> TrainerError:
    with pytest.raises(TrainerError) as failure:
        verify.run(verify_order(order, adapter), channel)
    assert not channel.of(Verified)
    return failure.value


def test_good_adapter_gets_a_certificate(
    run: Outcome, order: WorkOrder, adapter: Path, tmp_path: Path
) -> None:
    done = run_trainer(tmp_path / "work", verify_order(order, adapter))
    certificate = done.last(Verified).certificate
    assert certificate["is_verified"] is True
    assert certificate["max_abs_difference"] < 1e-6
    assert len(certificate["probes"]) == 16
    assert all(p["chosen"]["expected"] == p["chosen"]["alone"] for p in certificate["probes"])
    files = run.last(Packaged).files
    assert certificate["files"] == {entry.name: entry.sha256 for entry in files}
    assert certificate["rank_correlation"] > 0.999


def test_changed_head_is_found(order: WorkOrder, adapter: Path, channel: RecordingChannel) -> None:
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors["base_model.model.score.weight"] *= 1.01
    save_file(tensors, weights, metadata={"format": "pt"})
    failure = failure_of(order, adapter, channel)
    assert failure.code is FailureCode.SCORE_MISMATCH
    assert "after a reload scores differ" in failure.detail


def test_head_that_is_not_loaded_is_named(
    order: WorkOrder, adapter: Path, channel: RecordingChannel
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"modules_to_save": None, "task_type": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    failure = failure_of(order, adapter, channel)
    assert "lacks the adapter's base_model.model.score" in failure.detail


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (MemoryError("no more"), FailureCode.OUT_OF_MEMORY, "MemoryError: no more"),
        (KeyError("r"), FailureCode.SCORE_MISMATCH, "KeyError: 'r'"),
    ],
    ids=["out of memory", "bad files"],
)
def test_only_bad_files_are_a_score_mismatch(
    order: WorkOrder,
    adapter: Path,
    channel: RecordingChannel,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: FailureCode,
    detail: str,
) -> None:
    """If a process ran out of memory, this says nothing about the adapter."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(verify, "certify", fail)
    failure = failure_of(order, adapter, channel)
    assert failure.code is code
    assert detail in failure.detail


def test_command_prints_the_certificate(adapter: Path, order: WorkOrder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.trainer.export.verify", adapter, "--base", order.model_dir],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["is_verified"] is True


def test_gpu_that_cuda_cannot_use_fails_the_job(
    order: WorkOrder, adapter: Path, channel: RecordingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may be too old for torch: training on the CPU instead would take days."""
    assert order.plan
    plan = order.plan.model_copy(update={"gpus": 1})
    order = order.model_copy(update={"plan": plan})
    verify.run(verify_order(order, adapter), channel)  # a worker without a GPU uses its CPU
    channel.messages.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a2b-6b0d-4a3e-9f5c")
    failure = failure_of(order, adapter, channel)
    assert failure.code is FailureCode.CUDA_ERROR
    assert "this worker has a GPU, but CUDA cannot use it" in failure.detail
