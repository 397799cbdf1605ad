"""Named evaluation datasets give the same numbers as in a separate job, with both engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import CheckpointSaved, Noted, Packaged, Reported, Stepped
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.model_factories.trainer_process import Outcome, RecordingChannel, run_trainer
from worker.ipc.order import EXIT_DONE, WorkOrder
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


def hard_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of which a third has wrong labels, so that training stops early."""
    rows = make_pairs(count)
    for row in rows[::3]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows


def overlong_pairs(count: int) -> list[dict[str, Any]]:
    rows = make_pairs(count, seed=3)
    rows[1]["chosen"][0]["content"] = "the " * 300
    return rows


MATHS, SAFETY = make_pairs(12, seed=1), overlong_pairs(9)


def order_of(llama: TinyBase, engine: str, **more: Any) -> WorkOrder:
    training = {
        "epochs": 6,
        "learning_rate": 0.03,
        "max_length": 64,
        "eval_steps": 2,
        "checkpoint_steps": 2,
        "early_stopping": {"patience": 3, "monitored_dataset": "safety"},
        "engine": engine,
    }
    named = {"safety": SAFETY, "maths": MATHS}
    return llama.order(rows=hard_pairs(32), named=named, training=training, **more)


@pytest.fixture(scope="module", params=["auto", "stock"])
def order(llama: TinyBase, request: pytest.FixtureRequest) -> WorkOrder:
    return order_of(llama, request.param)


@pytest.fixture(scope="module")
def run(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("run") / "work", order)


def adapter_bytes(run: Outcome) -> dict[str, bytes]:
    package = run.last(Packaged)
    return {e.name: (run.work / package.directory / e.name).read_bytes() for e in package.files}


def figures(metrics: dict[str, float], group: str) -> dict[str, float]:
    start = f"{group}/"
    return {
        name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)
    }


def test_each_dataset_has_the_metrics_of_an_evaluation(run: Outcome) -> None:
    metrics = run.last(Packaged).metrics
    for group in ("eval", "eval_before"):
        main, named = figures(metrics, group), figures(metrics, f"{group}_maths")
        assert (main["pairs"], named["pairs"]) == (16, 12)
        assert named.keys() == {name for name in main if not name.startswith("slice/")}
        assert figures(metrics, f"{group}_safety")["left_out"] == pytest.approx(1 / 9)
        assert figures(metrics, f"{group}_safety")["max_length"] == 64


def test_figures_do_not_depend_on_which_dataset_has_which_name(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    rows = make_pairs(16, seed=1)  # those of the eval_dataset
    order = llama.order(count=24, named={"same": rows}, training={"max_steps": 3})
    assert run_task(order, channel) == EXIT_DONE
    metrics = channel.of(Packaged)[-1].metrics
    for before in ("", "_before"):
        main = figures(metrics, f"eval{before}")
        expected = {name: v for name, v in main.items() if not name.startswith("slice/")}
        assert figures(metrics, f"eval{before}_same") == expected


def test_early_stopping_looks_at_the_named_dataset(run: Outcome) -> None:
    losses = {
        m.step: m.metrics["eval_safety/loss"]
        for m in run.of(Stepped)
        if "eval_safety/loss" in m.metrics
    }
    best = min(losses, key=lambda step: losses[step])
    (note,) = (m for m in run.of(Noted) if m.code == "stopped_early")
    assert note.data["published_step"] == best
    assert "eval_safety/loss" in note.message
    assert run.last(Packaged).metrics["eval_safety/loss"] == losses[best]
    assert [m.step for m in run.of(CheckpointSaved) if m.is_best][-1] == best


def test_resumed_run_gives_the_same_bytes(order: WorkOrder, run: Outcome, tmp_path: Path) -> None:
    middle = run.of(CheckpointSaved)[-2]
    work = tmp_path / "resumed"
    shutil.copytree(run.work / middle.directory, work / "checkpoint")
    resumed = run_trainer(work, order.model_copy(update={"checkpoints": ["checkpoint"]}))
    assert not [m for m in resumed.of(Stepped) if m.step == 0]
    assert adapter_bytes(resumed) == adapter_bytes(run)
    assert resumed.last(Packaged).metrics == run.last(Packaged).metrics


def test_card_lock_and_reports_name_the_datasets(run: Outcome) -> None:
    files, metrics = adapter_bytes(run), run.last(Packaged).metrics
    lock = json.loads(files["run.lock.json"])
    assert lock["datasets"]["eval_datasets"] == {"maths": f"{2:064x}", "safety": f"{1:064x}"}
    counts = lock["pairs"]["eval_datasets"]["safety"]
    assert (counts["uploaded"], counts["used"], counts["dropped"]["overlong"]) == (9, 8, 1)
    card = files["README.md"].decode()
    assert "| evaluation (safety) | 9 | 0 | 1 |" in card
    accuracy = [f"{metrics[f'eval{b}_safety/accuracy']:.4g}" for b in ("_before", "")]
    assert f"| safety | 8 | 11.1% | {' | '.join(accuracy)} |" in card
    reports = {m.name: m.document for m in run.of(Reported)}
    assert reports["dataset"]["eval_datasets"]["maths"]["rows"] == 12
    assert reports["dataset"]["eval_rows"] == 16
    worst = reports["worst_pairs"]["eval_datasets"]
    assert worst.keys() == {"maths", "safety"}
    assert all(pair["margin"] < 0 for pairs in worst.values() for pair in pairs)


def test_prompts_that_are_trained_on_are_found_in_each_dataset(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    rows = make_pairs(12)
    known = [rows[4] | {"line": 1}, rows[7] | {"line": 2}]
    order = llama.order(rows=rows, eval_count=0, named={"old": known})
    assert run_task(order.model_copy(update={"action": "inspect"}), channel) == EXIT_DONE
    notes = [m for m in channel.of(Noted) if m.code == "eval_leaked"]
    assert [(m.data["dataset"], m.data["lines"]) for m in notes] == [("eval_old", [1, 2])]
    assert notes[0].message.startswith("2 of 2 eval_old pairs")


def test_job_with_named_datasets_alone_has_no_other_accuracy(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    training = {"max_steps": 2, "eval_steps": 1}
    order = llama.order(count=16, eval_count=0, named={"maths": MATHS}, training=training)
    assert run_task(order, channel) == EXIT_DONE
    package = channel.of(Packaged)[-1]
    assert "eval_maths/accuracy" in package.metrics
    assert "eval/accuracy" not in package.metrics
    card = (work / package.directory / "README.md").read_text()
    assert "accuracy of this adapter is unknown" not in card
    assert "| maths | 12 | 0.0% |" in card
    evaluated = [m.step for m in channel.of(Stepped) if "eval_maths/loss" in m.metrics]
    assert {1, 2} <= set(evaluated)


def test_fault_names_its_dataset(llama: TinyBase, channel: RecordingChannel, work: Path) -> None:
    limit = {"max_length": 64, "overlong": "error"}
    order = llama.order(count=8, named={"maths": MATHS, "safety": SAFETY}, training=limit)
    assert run_task(order.model_copy(update={"action": "inspect"}), channel) != EXIT_DONE
    failed = channel.messages[-1]
    assert failed.code == "pairs_overlong"
    assert failed.detail.startswith("eval_safety pairs: line 2: longer than max_length=64")


def test_many_slices_and_datasets_fit_into_the_messages(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    rows = make_pairs(48)
    for row in rows:
        row["slice"] = f"kind {row['line'] % 40}"
    order = llama.order(
        rows=rows,
        eval_dataset={"fraction": 0.9},
        eval_count=0,
        named={f"n{i}": MATHS[:4] for i in range(8)},
        training={"max_steps": 1},
    )
    assert run_task(order, channel) == EXIT_DONE
    metrics = channel.of(Packaged)[-1].metrics
    assert sum(name.startswith("eval/slice/") for name in metrics) > 20
    assert sum(name.startswith("eval_n7/") for name in metrics) > 10
