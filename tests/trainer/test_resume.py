"""Interrupted runs end with the bytes of the uninterrupted one, or start over and say so."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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
from worker.ipc.order import EXIT_STOPPED, STOP, WorkOrder

pytestmark = pytest.mark.train


def hard_order(llama: Base, engine: str, dropout: float) -> WorkOrder:
    """All that makes resuming hard: accumulation, evaluation, a best model, patience."""
    rows = make_pairs(44)  # 11 batches of 4, two a step: an epoch ends with half a step
    for row in rows[::3]:  # wrong labels, to be learnt by heart
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return llama.order(
        rows=rows,
        lora={"dropout": dropout},
        training={
            "epochs": 8,
            "batch_size": 8,
            "per_device_batch_size": 4,
            "learning_rate": 0.03,
            "lr_scheduler": "cosine",
            "eval_steps": 2,
            "checkpoint_steps": 4,
            "early_stopping": {"patience": 5},
            "engine": engine,
        },
    )


@pytest.fixture(scope="module")
def order(llama: Base) -> WorkOrder:
    return hard_order(llama, "auto", dropout=0.2)  # which has it trained with the stock engine


@pytest.fixture(scope="module")
def straight(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("straight") / "work", order)


def adapter_bytes(run: Outcome) -> dict[str, bytes]:
    package = run.last(Packaged)
    return {e.name: (run.work / package.directory / e.name).read_bytes() for e in package.files}


def newest(run: Outcome) -> Path:
    """The last checkpoint that was said."""
    return run.work / str(run.last(CheckpointSaved).directory)


def resume_order(order: WorkOrder, checkpoint: Path, work: Path) -> WorkOrder:
    """As a supervisor does: from a checkpoint, in another work directory."""
    shutil.copytree(checkpoint, work / "resumed")
    return order.model_copy(update={"checkpoints": ["resumed"]})


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


@pytest.mark.parametrize("engine", ["stock", "shared_prefix"])
def test_interrupted_at_random_steps_it_gives_the_same_bytes(
    engine: str, llama: Base, order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    if engine == "shared_prefix":
        order = hard_order(llama, engine, dropout=0)
        straight = run_trainer(tmp_path / "straight", order)
    last = [m for m in straight.of(Stepped) if "train/loss" in m.metrics][-1]
    assert last.step < last.total_steps
    # One in each third; the last is a stop, which may come two steps late.
    draw, third = random.Random(engine), (last.step - 2) // 3
    *kills, stop_step = (draw.randint(1, third) + i * third for i in range(3))

    checkpoint: Path | None = None
    for step in kills:
        work = tmp_path / f"killed-{step}"
        todo = resume_order(order, checkpoint, work) if checkpoint else order
        killed = run_trainer(work, todo, at_step(step, kill))
        assert killed.status == -signal.SIGKILL
        if killed.of(CheckpointSaved):
            checkpoint = newest(killed)

    assert checkpoint
    work = tmp_path / "stopped"
    stopped = run_trainer(work, resume_order(order, checkpoint, work), at_step(stop_step, stop))
    assert stopped.status == EXIT_STOPPED
    step = stopped.last(Stopped).step
    assert step in (stop_step, stop_step + 1, stop_step + 2)
    assert stopped.last(CheckpointSaved).step == step
    assert not stopped.of(Packaged)

    work = tmp_path / "last"
    resumed = run_trainer(work, resume_order(order, newest(stopped), work))
    assert adapter_bytes(resumed) == adapter_bytes(straight)
    assert resumed.last(Packaged).metrics == straight.last(Packaged).metrics
    # Not "refused"; the tiny dataset has few prompts.
    notes = [note.code for note in resumed.of(Noted)]
    assert notes == ["eval_leaked"] + (["engine_stock"] if engine == "stock" else [])


def test_finished_training_is_not_trained_again(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, newest(straight), tmp_path / "again")
    resumed = run_trainer(tmp_path / "again", again)
    assert not [m for m in resumed.of(Stepped) if "train/loss" in m.metrics]
    assert adapter_bytes(resumed) == adapter_bytes(straight)
    assert resumed.last(Packaged).metrics == straight.last(Packaged).metrics


def test_damaged_checkpoint_is_refused_and_training_starts_over(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, newest(straight), tmp_path / "again")
    optimizer = tmp_path / "again" / "resumed" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    run = run_trainer(tmp_path / "again", again, at_step(1, kill))
    note = run.last(Noted)
    assert note.code == "checkpoint_refused"
    assert "optimizer.pt is missing or damaged" in note.message
    assert [m.step for m in run.of(Stepped)][:2] == [0, 1]


def test_foreign_checkpoint_is_refused_and_the_one_before_is_used(
    order: WorkOrder, straight: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, newest(straight), tmp_path / "again")
    foreign = tmp_path / "again" / "foreign"
    shutil.copytree(tmp_path / "again" / "resumed", foreign)
    manifest = json.loads((foreign / "manifest.json").read_text())
    manifest["same"]["threads"] += 1
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    again = again.model_copy(update={"checkpoints": ["foreign", "resumed"]})
    resumed = run_trainer(tmp_path / "again", again)
    (note,) = (note for note in resumed.of(Noted) if note.code == "checkpoint_refused")
    assert "made under other circumstances: threads" in note.message
    assert not [m for m in resumed.of(Stepped) if "train/loss" in m.metrics]
    assert adapter_bytes(resumed) == adapter_bytes(straight)


def test_old_checkpoints_go_and_the_best_one_stays(straight: Outcome) -> None:
    saved = [m.directory for m in straight.of(CheckpointSaved)]
    best = [m.directory for m in straight.of(CheckpointSaved) if m.is_best][-1]
    left = {name for name in os.listdir(straight.work) if name.startswith("checkpoint-")}
    assert left == {*saved[-2:], best}
