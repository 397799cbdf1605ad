"""``plaudit doctor`` on this machine: its results, its exit status, and checks that must fail."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from app.cli.commands import app
from app.domain.progress import CheckpointSaved, FileEntry
from worker.doctor import engine, short_jobs
from worker.doctor.checks import CHECKS
from worker.supervisor import start_checks
from worker.supervisor.check_results import CheckFailedError, LeftOutError, require, run_check
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_quick_checks_pass_here() -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    report = json.loads(done.stdout)
    assert done.exit_code == 0, report
    assert report["is_fit"] is True
    statuses = {check["check"]: check["status"] for check in report["checks"]}
    assert statuses["forked trainers"] == "passed"
    assert statuses["locks of killed trainers"] == "passed"
    assert all(check["detail"] for check in report["checks"])


def test_selection_of_devices_that_do_not_exist_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the cause, also in the table."""
    broken = (
        "import sys; from tests.supervisor.fake_nvml import FakeGpu, FakeNvml;"
        "sys.modules['pynvml'] = FakeNvml([FakeGpu('GPU-1', 1)]);"
        "from worker.doctor.__main__ import main; sys.exit(main(['--quick']))"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr("app.cli.doctor.PROGRAM", ("-c", broken))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "CUDA_VISIBLE_DEVICES=7" in done.stdout
    assert "selects none" in done.stdout


def _raise(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("run", "status", "detail"),
    [
        (lambda: require(1 < 2, "1 of 2"), "passed", "1 of 2"),
        (lambda: require(3 < 2, "3 of 2"), "failed", "3 of 2"),
        (lambda: _raise(CheckFailedError("slow")), "failed", "slow"),
        (lambda: _raise(RuntimeError("lost")), "failed", "RuntimeError: lost"),
        (lambda: _raise(LeftOutError("none")), "left_out", "none"),
    ],
)
def test_result_of_a_check(run: Any, status: str, detail: str) -> None:
    result = run_check("c", run)
    assert (result.status, result.detail) == (status, detail)


@pytest.mark.train
def test_short_jobs_pass_here() -> None:
    assert "scores differ by" in short_jobs.verified_jobs("cpu")
    assert "differ by 0.0e+00" in short_jobs.stop_and_resume("cpu")


@pytest.mark.train
def test_resumed_job_with_other_weights_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = iter([torch.ones(3), torch.tensor([1.0, 1.0, 1.01])])
    monkeypatch.setattr(short_jobs._Workshop, "weights", lambda *_: next(weights))
    with pytest.raises(CheckFailedError, match=r"differ by 5\.8e-03"):
        short_jobs.stop_and_resume("cpu")


def test_dropped_model_is_gone_and_a_held_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.released_memory("cpu").startswith("0 of")
    held: list[Any] = []
    make = engine._trainer

    def keep(trainer_class: Any, device: str, folder: Path) -> Any:
        held.append(made := make(trainer_class, device, folder))
        return made

    monkeypatch.setattr(engine, "_trainer", keep)
    with pytest.raises(CheckFailedError, match="weights and 0 MiB"):
        engine.released_memory("cpu")


def test_gradients_of_a_wrong_length_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a loss that is not divided by the number of passes."""
    whole = SharedPrefixRewardTrainer._loss
    monkeypatch.setattr(
        SharedPrefixRewardTrainer,
        "_loss",
        lambda self, *args: 2 * (loss := whole(self, *args)) - loss.detach(),
    )
    with pytest.raises(CheckFailedError, match=r"their length differs by 1\.0e\+00"):
        engine.step("cpu")


def test_lack_of_memory_is_handled_here() -> None:
    assert "recomputed: cosine" in engine.lack_of_memory("cpu")


@pytest.mark.parametrize(
    ("ignored", "message"),
    [("_lower_budget", "forced by plaudit doctor"), ("_is_recomputed", "not computed again")],
)
def test_lack_of_memory_that_is_not_handled_fails(
    monkeypatch: pytest.MonkeyPatch, ignored: str, message: str
) -> None:
    monkeypatch.setattr(SharedPrefixRewardTrainer, ignored, lambda *_: False)
    with pytest.raises((CheckFailedError, torch.OutOfMemoryError), match=message):
        engine.lack_of_memory("cpu")


def test_lack_of_memory_that_does_not_happen_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    register = torch.nn.Module.register_forward_pre_hook
    monkeypatch.setattr(
        torch.nn.Module,
        "register_forward_pre_hook",
        lambda module, hook, **more: register(module, hook, **more) if more else None,
    )
    with pytest.raises(CheckFailedError, match="did not lower the budget"):
        engine.lack_of_memory("cpu")


def test_job_that_does_not_stop_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [FileEntry(name="optimizer.pt", size=1, sha256="0" * 64)]
    last = CheckpointSaved(step=short_jobs.STEPS, directory="checkpoint-24", files=files)
    workshop = SimpleNamespace(
        order=lambda *_, **__: SimpleNamespace(model_copy=lambda **_: None),
        weights=lambda *_: torch.ones(3),
        run=lambda *_, **__: [last],
        last_work=tmp_path,
    )
    monkeypatch.setattr(short_jobs, "_workshop", lambda _: nullcontext(workshop))
    with pytest.raises(CheckFailedError, match="the job went on to step 24 of 24"):
        short_jobs.stop_and_resume("cpu")


def test_locks_without_effect_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""
    without = start_checks._HOLD_LOCK.replace("fcntl.flock(f, 2)", "0")
    monkeypatch.setattr(start_checks, "_HOLD_LOCK", without)
    with pytest.raises(CheckFailedError, match="two processes could take the same lock"):
        start_checks._released_lock()


def test_holder_of_a_lock_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_checks, "_HOLD_LOCK", "raise SystemExit(1)")
    with pytest.raises(CheckFailedError, match="could not take a lock"):
        start_checks._released_lock()


def test_every_check_has_a_name_of_its_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
