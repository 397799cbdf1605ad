from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import set_seed

from app.domain.progress import CheckpointSaved
from tests.trainer.conftest import Base, Recorder
from worker.reward_model.loading import device_config_for, load_base, wrap
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import tokenize
from worker.trainer.data.tokenized_rows import PairFile
from worker.trainer.training.checkpoints import (
    BEST_WEIGHTS,
    MANIFEST,
    NEEDED,
    WEIGHTS,
    CheckpointRefusedError,
    complete,
    prune,
    restore_best,
    verify,
)
from worker.trainer.training.run import build_run, train

SAME = {"plan_sha256": "a" * 64, "threads": 1}


def written(directory: Path) -> Path:
    """What transformers leaves behind, in little."""
    directory.mkdir()
    for name in (*NEEDED, "README.md", "tokenizer.json", "training_args.bin"):
        (directory / name).write_text(f"{name} of {directory.name}")
    return directory


def completed(directory: Path, best: Path | None = None, **more: Any) -> Path:
    complete(
        directory,
        best=best,
        step=int(directory.name.rpartition("-")[2]),
        is_finished=False,
        same=SAME,
        tokens=7,
        metrics={"eval_before/loss": 0.7},
        **more,
    )
    return directory


def test_keeps_what_resuming_needs_and_no_pickled_arguments(tmp_path: Path) -> None:
    checkpoint = completed(written(tmp_path / "checkpoint-4"))
    assert {p.name for p in checkpoint.iterdir()} == {*NEEDED, MANIFEST}
    manifest = verify(checkpoint, SAME)
    assert (manifest.step, manifest.best_step, manifest.tokens) == (4, None, 7)


def test_best_weights_travel_with_a_later_checkpoint(tmp_path: Path) -> None:
    best = completed(written(tmp_path / "checkpoint-2"))
    later = completed(written(tmp_path / "checkpoint-6"), best=best)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    restored = restore_best(later, verify(later, SAME), elsewhere)
    assert restored == elsewhere / "checkpoint-2"
    assert (restored / WEIGHTS).read_bytes() == (best / WEIGHTS).read_bytes()


def test_checkpoint_that_is_the_best_itself_is_restored_from_its_own_weights(
    tmp_path: Path,
) -> None:
    best = written(tmp_path / "checkpoint-2")
    completed(best, best=best)
    assert not (best / BEST_WEIGHTS).exists()
    given = best.rename(tmp_path / "resumed")
    restored = restore_best(given, verify(given, SAME), tmp_path)
    assert restored
    assert (restored / WEIGHTS).read_bytes() == (given / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", NEEDED)
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint = completed(written(tmp_path / "checkpoint-4"))
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointRefusedError, match=f"{name} is missing or damaged"):
        verify(checkpoint, SAME)


def test_changed_byte_is_refused(tmp_path: Path) -> None:
    checkpoint = completed(written(tmp_path / "checkpoint-4"))
    (checkpoint / "optimizer.pt").write_text("optimizer.pt of checkpoint-5")
    with pytest.raises(CheckpointRefusedError, match=r"optimizer\.pt is missing or damaged"):
        verify(checkpoint, SAME)


def test_file_that_was_never_there_is_refused(tmp_path: Path) -> None:
    directory = written(tmp_path / "checkpoint-4")
    (directory / "scheduler.pt").unlink()  # the writer died before it
    with pytest.raises(CheckpointRefusedError, match=r"scheduler\.pt was never part of it"):
        verify(completed(directory), SAME)


@pytest.mark.parametrize("content", [None, "", "{}", '{"step": 4'])
def test_unfinished_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    checkpoint = completed(written(tmp_path / "checkpoint-4"))
    (checkpoint / MANIFEST).unlink()
    if content is not None:
        (checkpoint / MANIFEST).write_text(content)
    with pytest.raises(CheckpointRefusedError, match="no readable manifest"):
        verify(checkpoint, SAME)


@pytest.mark.parametrize(
    "other", [SAME | {"threads": 2}, SAME | {"plan_sha256": "b" * 64}, SAME | {"more": 1}]
)
def test_checkpoint_of_other_circumstances_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    checkpoint = completed(written(tmp_path / "checkpoint-4"))
    with pytest.raises(CheckpointRefusedError, match="other circumstances"):
        verify(checkpoint, other)


def test_two_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    saved = [written(tmp_path / f"checkpoint-{step}") for step in (1, 2, 3, 4)]
    prune(saved, keep=[saved[0]])
    assert [path.name[-1] for path in sorted(tmp_path.iterdir())] == ["1", "3", "4"]


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_clock_saves_when_the_plan_gives_no_steps(
    llama: Base, work: Path, recorder: Recorder
) -> None:
    order = llama.order(count=24, eval_count=0)
    plan = order.plan
    assert plan
    assert order.train_file
    assert plan.reward["save_strategy"] == "no"
    numerics = device_config_for(plan)
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    pairs = tokenize(PairFile(Path(order.train_file)), tokenizer).pairs
    set_seed(1)
    model = wrap(load_base(order.model_dir, numerics, plan.head_modules), plan)
    run = build_run(model, tokenizer.tokenizer, plan, numerics, pairs, [], recorder, 1e-9, 1 << 34)  # type: ignore[arg-type]
    train(run, None)
    assert [m.step for m in recorder.of(CheckpointSaved)] == [1, 2, 3]
    last = recorder.of(CheckpointSaved)[-1]
    manifest = json.loads((work / last.directory / MANIFEST).read_text())
    assert manifest["is_finished"] is True
    assert manifest["tokens"] > 0
