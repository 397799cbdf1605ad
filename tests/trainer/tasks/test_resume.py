"""Interrupted runs end with the bytes of an uninterrupted one, or start over with a warning."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
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
from tests.model_factories.orders import TinyBase, with_plan
from tests.model_factories.pairs import make_pairs
from tests.model_factories.trainer_process import Outcome, run_trainer
from worker.ipc.order import EXIT_STOPPED, STOP, WorkOrder
from worker.supervisor.trainer_process import Child

pytestmark = pytest.mark.train


def hard_order(llama: TinyBase, backend: str, dropout: float) -> WorkOrder:
    """Combine all state that a resume must restore: accumulation, a best model, patience."""
    rows = make_pairs(44)  # 11 batches of 4, two per step: an epoch ends with half a step
    for row in rows[::3]:  # wrong labels make the model overfit, so that training stops early
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
            "engine": backend,
        },
    )


@pytest.fixture(scope="module")
def order(llama: TinyBase) -> WorkOrder:
    return hard_order(llama, "auto", dropout=0.2)  # dropout rules out packed rows


@pytest.fixture(scope="module")
def uninterrupted(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("uninterrupted") / "work", order)


def adapter_bytes(run: Outcome) -> dict[str, bytes]:
    package = run.last(Packaged)
    return {e.name: (run.work / package.directory / e.name).read_bytes() for e in package.files}


def newest(run: Outcome) -> Path:
    """Return the last checkpoint that was reported."""
    return run.work / str(run.last(CheckpointSaved).directory)


def resume_order(order: WorkOrder, checkpoint: Path, work: Path) -> WorkOrder:
    """Return the order to resume from a checkpoint in another work directory."""
    shutil.copytree(checkpoint, work / "resumed")
    return order.model_copy(update={"checkpoints": ["resumed"]})


def at_step(step: int, act: Callable[[Child], None]) -> Callable[[Message, Child], None]:
    def react(message: Message, process: Child) -> None:
        if (
            isinstance(message, Stepped)
            and message.step == step
            and "train/loss" in message.metrics
        ):
            act(process)

    return react


def kill(process: Child) -> None:
    os.kill(process.pid, signal.SIGKILL)


def stop(process: Child) -> None:
    assert process.stdin
    process.stdin.write(STOP)
    process.stdin.flush()


def test_run_stops_early_with_the_best_model(uninterrupted: Outcome) -> None:
    steps = [m.step for m in uninterrupted.of(Stepped) if "train/loss" in m.metrics]
    assert steps[-1] < uninterrupted.of(Stepped)[-1].total_steps
    losses = {
        m.step: m.metrics["eval/loss"]
        for m in uninterrupted.of(Stepped)
        if "eval/loss" in m.metrics
    }
    best = min(losses, key=lambda step: losses[step])
    assert best < steps[-1]
    # The published model is that of an earlier step: its metrics replace none of the last step.
    evaluated = [m.step for m in uninterrupted.of(Stepped) if "eval/loss" in m.metrics]
    assert evaluated == sorted(set(evaluated))
    (note,) = (m for m in uninterrupted.of(Noted) if m.code == "stopped_early")
    assert not note.is_warning
    assert note.data["published_step"] == best
    lock = json.loads(adapter_bytes(uninterrupted)["run.lock.json"])
    assert lock["training"] == note.data
    assert (lock["training"]["steps"], lock["training"]["stopped_early"]) == (steps[-1], True)
    assert uninterrupted.last(Packaged).metrics["eval/loss"] == losses[best]
    assert [m.step for m in uninterrupted.of(CheckpointSaved) if m.is_best][-1] == best


@pytest.mark.parametrize("backend", ["length_groups", "shared_prefix"])
def test_run_interrupted_at_random_steps_gives_the_same_bytes(
    backend: str, llama: TinyBase, order: WorkOrder, uninterrupted: Outcome, tmp_path: Path
) -> None:
    if backend == "shared_prefix":
        order = hard_order(llama, backend, dropout=0)
        uninterrupted = run_trainer(tmp_path / "uninterrupted", order)
    last = [m for m in uninterrupted.of(Stepped) if "train/loss" in m.metrics][-1]
    assert last.step < last.total_steps
    # One interruption in each third. The last one is a stop, which may come two steps late.
    draw, third = random.Random(backend), (last.step - 2) // 3
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
    assert adapter_bytes(resumed) == adapter_bytes(uninterrupted)
    assert resumed.last(Packaged).metrics == uninterrupted.last(Packaged).metrics
    # No checkpoint_refused. The tiny dataset has few prompts, hence eval_leaked.
    fallback = ["engine_stock"] if backend == "length_groups" else []
    assert [note.code for note in resumed.of(Noted)] == ["eval_leaked", *fallback, "stopped_early"]


def test_finished_training_is_not_trained_again(
    order: WorkOrder, uninterrupted: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, newest(uninterrupted), tmp_path / "again")
    resumed = run_trainer(tmp_path / "again", again)
    assert not [m for m in resumed.of(Stepped) if "train/loss" in m.metrics]
    assert adapter_bytes(resumed) == adapter_bytes(uninterrupted)
    assert resumed.last(Packaged).metrics == uninterrupted.last(Packaged).metrics


def test_damaged_checkpoint_is_refused_and_training_starts_over(
    order: WorkOrder, uninterrupted: Outcome, tmp_path: Path
) -> None:
    again = resume_order(order, newest(uninterrupted), tmp_path / "again")
    optimizer = tmp_path / "again" / "resumed" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    run = run_trainer(tmp_path / "again", again, at_step(1, kill))
    note = run.last(Noted)
    assert note.code == "checkpoint_refused"
    assert "optimizer.pt is missing or damaged" in note.message
    assert [m.step for m in run.of(Stepped)][:2] == [0, 1]


def test_foreign_checkpoint_is_refused_and_one_of_another_machine_is_continued(
    order: WorkOrder, uninterrupted: Outcome, tmp_path: Path
) -> None:
    middle = uninterrupted.work / uninterrupted.of(CheckpointSaved)[-2].directory
    again = resume_order(order, middle, tmp_path / "again")
    foreign = tmp_path / "again" / "foreign"
    shutil.copytree(tmp_path / "again" / "resumed", foreign)
    for directory, key in ((foreign, "engine"), (tmp_path / "again" / "resumed", "threads")):
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest["same"][key] = 64
        (directory / "manifest.json").write_text(json.dumps(manifest))
    again = again.model_copy(update={"checkpoints": ["foreign", "resumed"]})
    resumed = run_trainer(tmp_path / "again", again)
    notes = {note.code: note for note in resumed.of(Noted)}
    assert "saved with other values of engine" in notes["checkpoint_refused"].message
    assert "(threads 64, now 1)" in notes["resumed_elsewhere"].message
    assert notes["resumed_elsewhere"].is_warning
    step = int(middle.name.rpartition("-")[2])
    assert min(m.step for m in resumed.of(Stepped) if "train/loss" in m.metrics) == step + 1
    assert adapter_bytes(resumed) == adapter_bytes(uninterrupted)  # the machine is the same here


def of_length(order: WorkOrder, **reward: object) -> WorkOrder:
    """The order of a clone with another number of epochs or steps."""
    return with_plan(order, reward=reward)


def test_clone_goes_on_from_the_checkpoint_of_a_shorter_or_longer_run(
    llama: TinyBase, tmp_path: Path
) -> None:
    training = {"max_steps": 4, "checkpoint_steps": 2, "lr_scheduler": "constant"}
    order = llama.order(count=24, training=training)
    short = run_trainer(tmp_path / "short", order)
    long = run_trainer(tmp_path / "long", of_length(order, max_steps=7))
    for number, (directory, begin) in enumerate((("checkpoint-2", 3), ("checkpoint-4", 5))):
        work = tmp_path / f"clone-{number}"
        clone = resume_order(of_length(order, max_steps=7), short.work / directory, work)
        resumed = run_trainer(work, clone)
        steps = [m.step for m in resumed.of(Stepped) if "train/loss" in m.metrics]
        assert steps == list(range(begin, 8))
        assert not [m for m in resumed.of(Noted) if m.code == "checkpoint_refused"]
        # With a constant learning rate it is the same training.
        assert adapter_bytes(resumed) == adapter_bytes(long)


def test_clone_with_fewer_epochs_publishes_the_checkpoint(llama: TinyBase, tmp_path: Path) -> None:
    order = llama.order(count=24, training={"epochs": 3, "checkpoint_steps": 3})
    whole = run_trainer(tmp_path / "whole", order)
    work = tmp_path / "clone"
    clone = resume_order(of_length(order, num_train_epochs=2.0), newest(whole), work)
    done = run_trainer(work, clone)
    assert not [m for m in done.of(Stepped) if "train/loss" in m.metrics]
    lock = json.loads(adapter_bytes(done)["run.lock.json"])
    assert lock["training"] == {
        "steps": 9,
        "planned_steps": 9,
        "published_step": 9,
        "stopped_early": False,
    }


def test_old_checkpoints_are_removed_and_the_best_one_is_kept(uninterrupted: Outcome) -> None:
    saved = [m.directory for m in uninterrupted.of(CheckpointSaved)]
    best = [m.directory for m in uninterrupted.of(CheckpointSaved) if m.is_best][-1]
    left = {name for name in os.listdir(uninterrupted.work) if name.startswith("checkpoint-")}
    assert left == {*saved[-2:], best}
