"""Interrupted runs end with the bytes of the uninterrupted one, or start over and say so."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.order import EXIT_STOPPED, STOP, WorkOrder
from app.domain.progress import (
    CheckpointSaved,
    Message,
    Noted,
    Packaged,
    Stepped,
    Stopped,
)
from tests.trainer.conftest import Base
from tests.trainer.tiny import Outcome, make_pairs, run_trainer

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def order(llama: Base) -> WorkOrder:
    """All that makes resuming hard: dropout, accumulation, evaluation, a best model, patience."""
    rows = make_pairs(44)  # 11 batches of 4, two a step: an epoch ends with half a step
    for row in rows[::3]:  # wrong labels, to be learnt by heart
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return llama.order(
        rows=rows,
        lora={"dropout": 0.2},
        training={
            "epochs": 8,
            "batch_size": 8,
            "per_device_batch_size": 4,
            "learning_rate": 0.03,
            "lr_scheduler": "cosine",
            "eval_steps": 2,
            "checkpoint_steps": 4,
            "early_stopping": {"patience": 5},
        },
    )


@pytest.fixture(scope="module")
def straight(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("straight") / "work", order)


def adapter_bytes(run: Outcome) -> dict[str, bytes]:
    package = run.last(Packaged)
    return {e.name: (run.work / package.directory / e.name).read_bytes() for e in package.files}


def resume_order(order: WorkOrder, run: Outcome, work: Path, name: str = "resumed") -> WorkOrder:
    """As a supervisor does: the last checkpoint that was said, in another work directory."""
    directory = run.last(CheckpointSaved).directory
    work.mkdir()
    shutil.copytree(run.work / directory, work / name)
    return order.model_copy(update={"checkpoint": name})


def at_step(
    step: int, act: Callable[[subprocess.Popen[bytes]], None]
) -> Callable[[Message, subprocess.Popen[bytes]], None]:
    def react(message: Message, process: subprocess.Popen[bytes]) -> None:
        if (
            isinstance(message, Stepped)
            and message.step == step
            and "train/loss" in message.metrics
        ):
            act(process)

    return react


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(STOP)
    process.stdin.flush()


def test_stops_early_with_the_best_model(straight: Outcome) -> None:
    steps = [m.step for m in straight.of(Stepped) if "train/loss" in m.metrics]
    assert steps[-1] < straight.of(Stepped)[-1].total_steps
    losses = {
        m.step: m.metrics["eval/loss"] for m in straight.of(Stepped) if "eval/loss" in m.metrics
    }
    best = min(losses, key=lambda step: losses[step])
    assert best < steps[-1]
    assert straight.last(Packaged).metrics["eval/loss"] == losses[best]
    assert [m.step for m in straight.of(CheckpointSaved) if m.is_best][-1] == best


def test_killed_resumed_stopped_and_resumed_again_gives_the_same_bytes(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    killed = run_trainer(tmp_path / "killed", order, at_step(6, kill))
    assert killed.status == -signal.SIGKILL
    assert killed.of(CheckpointSaved)

    second = resume_order(order, killed, tmp_path / "second")
    stopped = run_trainer(tmp_path / "second", second, at_step(9, stop))
    assert stopped.status == EXIT_STOPPED
    step = stopped.last(Stopped).step
    assert step in (9, 10, 11)
    assert stopped.last(CheckpointSaved).step == step
    assert not stopped.of(Packaged)

    third = resume_order(order, stopped, tmp_path / "third")
    resumed = run_trainer(tmp_path / "third", third)
    assert adapter_bytes(resumed) == adapter_bytes(straight)
    assert resumed.last(Packaged).metrics == straight.last(Packaged).metrics
    assert [note.code for note in resumed.of(Noted)] == ["engine_stock"]  # not "refused"


def test_finished_training_is_not_trained_again(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, straight, tmp_path / "again")
    resumed = run_trainer(tmp_path / "again", again)
    assert not [m for m in resumed.of(Stepped) if "train/loss" in m.metrics]
    assert adapter_bytes(resumed) == adapter_bytes(straight)
    assert resumed.last(Packaged).metrics == straight.last(Packaged).metrics


def test_damaged_checkpoint_is_refused_and_training_starts_over(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, straight, tmp_path / "again")
    optimizer = tmp_path / "again" / "resumed" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    run = run_trainer(tmp_path / "again", again, at_step(1, kill))
    note = run.last(Noted)
    assert note.code == "checkpoint_refused"
    assert "optimizer.pt is missing or damaged" in note.message
    assert [m.step for m in run.of(Stepped)][:2] == [0, 1]


def test_old_checkpoints_go_and_the_best_one_stays(straight: Outcome) -> None:
    saved = [m.directory for m in straight.of(CheckpointSaved)]
    best = [m.directory for m in straight.of(CheckpointSaved) if m.is_best][-1]
    left = {name for name in os.listdir(straight.work) if name.startswith("checkpoint-")}
    assert left == {*saved[-2:], best}
