from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import CheckpointSaved
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import RecordingChannel
from tests.model_factories.training_runs import make_run
from worker.reward_model.packaged_adapter import ADAPTER_WEIGHTS
from worker.trainer.training.checkpoints import (
    BEST_WEIGHTS,
    MANIFEST,
    NEEDED_FILES,
    CheckpointRefusedError,
    CheckpointState,
    check_checkpoint,
    finalize_checkpoint,
    remove_old_checkpoints,
    restore_best,
)
from worker.trainer.training.run import train

FINGERPRINT = {"plan_sha256": "a" * 64, "threads": 1}


def write_checkpoint(directory: Path) -> Path:
    """Write the files that transformers leaves, with short texts as content."""
    directory.mkdir()
    for name in (*NEEDED_FILES, "README.md", "tokenizer.json", "training_args.bin"):
        (directory / name).write_text(f"{name} of {directory.name}")
    return directory


def finalized(directory: Path, best: Path | None = None) -> Path:
    state = CheckpointState(
        step=int(directory.name.rpartition("-")[2]),
        is_finished=False,
        resume_fingerprint=FINGERPRINT,
        tokens=7,
        metrics={"eval_before/loss": 0.7},
    )
    finalize_checkpoint(directory, state, best)
    return directory


def test_only_files_that_a_resume_needs_are_kept(tmp_path: Path) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    assert {p.name for p in checkpoint.iterdir()} == {*NEEDED_FILES, MANIFEST}
    manifest = check_checkpoint(checkpoint, FINGERPRINT)
    assert (manifest.step, manifest.best_step, manifest.tokens) == (4, None, 7)


def test_manifest_keeps_its_keys_on_disk(tmp_path: Path) -> None:
    """Workers must be able to resume from the checkpoints of earlier versions."""
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    assert list(manifest) == [
        "step", "best_step", "is_finished", "same", "tokens", "metrics", "activation_budget_bytes",
        "files",
    ]  # fmt: skip
    assert manifest["same"] == FINGERPRINT


def test_later_checkpoint_contains_the_best_weights(tmp_path: Path) -> None:
    best = finalized(write_checkpoint(tmp_path / "checkpoint-2"))
    later = finalized(write_checkpoint(tmp_path / "checkpoint-6"), best=best)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    restored = restore_best(later, check_checkpoint(later, FINGERPRINT), elsewhere)
    assert restored == elsewhere / "checkpoint-2"
    assert (restored / ADAPTER_WEIGHTS).read_bytes() == (best / ADAPTER_WEIGHTS).read_bytes()


def test_best_checkpoint_is_restored_from_its_own_weights(tmp_path: Path) -> None:
    best = write_checkpoint(tmp_path / "checkpoint-2")
    finalized(best, best=best)
    assert not (best / BEST_WEIGHTS).exists()
    given = best.rename(tmp_path / "resumed")
    restored = restore_best(given, check_checkpoint(given, FINGERPRINT), tmp_path)
    assert restored
    assert (restored / ADAPTER_WEIGHTS).read_bytes() == (given / ADAPTER_WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", NEEDED_FILES)
def test_checkpoint_with_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointRefusedError, match=f"{name} is missing or damaged"):
        check_checkpoint(checkpoint, FINGERPRINT)


def test_checkpoint_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    (checkpoint / "optimizer.pt").write_text("optimizer.pt of checkpoint-5")
    with pytest.raises(CheckpointRefusedError, match=r"optimizer\.pt is missing or damaged"):
        check_checkpoint(checkpoint, FINGERPRINT)


def test_checkpoint_that_was_saved_incomplete_is_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "checkpoint-4")
    (directory / "scheduler.pt").unlink()  # as if transformers had been killed before writing it
    with pytest.raises(CheckpointRefusedError, match=r"saved without scheduler\.pt"):
        check_checkpoint(finalized(directory), FINGERPRINT)


@pytest.mark.parametrize("content", [None, "", "{}", '{"step": 4'])
def test_checkpoint_without_a_complete_manifest_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    (checkpoint / MANIFEST).unlink()
    if content is not None:
        (checkpoint / MANIFEST).write_text(content)
    with pytest.raises(CheckpointRefusedError, match="manifest cannot be read"):
        check_checkpoint(checkpoint, FINGERPRINT)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (FINGERPRINT | {"threads": 2}, 'threads: {"threads": 1}'),
        (FINGERPRINT | {"plan_sha256": "b" * 64}, f'plan_sha256: {{"plan_sha256": "{"a" * 64}"}}'),
        (FINGERPRINT | {"more": 1}, 'more: {"more": null}'),
    ],
    ids=["threads", "plan", "additional key"],
)
def test_checkpoint_with_another_fingerprint_is_refused(
    tmp_path: Path, other: dict[str, Any], difference: str
) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    with pytest.raises(CheckpointRefusedError) as error:
        check_checkpoint(checkpoint, other)
    assert str(error.value) == f"it was saved with other values of {difference}"


def test_two_newest_checkpoints_and_the_best_one_are_kept(tmp_path: Path) -> None:
    saved = [write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (1, 2, 3, 4)]
    remove_old_checkpoints(saved, keep=[saved[0]])
    assert [path.name[-1] for path in sorted(tmp_path.iterdir())] == ["1", "3", "4"]


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_checkpoints_are_saved_by_the_clock_when_the_plan_gives_no_steps(
    llama: TinyBase, work: Path, channel: RecordingChannel
) -> None:
    order = llama.order(count=24, eval_count=0)
    assert order.plan
    assert order.plan.reward["save_strategy"] == "no"
    train(make_run(order, channel, checkpoint_seconds=1e-9), None)
    assert [m.step for m in channel.of(CheckpointSaved)] == [1, 2, 3]
    last = channel.of(CheckpointSaved)[-1]
    manifest = json.loads((work / last.directory / MANIFEST).read_text())
    assert manifest["is_finished"] is True
    assert manifest["tokens"] > 0


@pytest.mark.parametrize(
    ("changes", "is_exact", "is_refused"),
    [
        (
            {
                "threads": 2,
                "gpu": "H100 9.0",
                "activation_budget_bytes": 1,
                "fused_kernels": "liger-kernel 0.8.5",
            },
            False,
            False,
        ),
        ({"threads": 2}, True, True),
        ({"gpu": "H100 9.0"}, True, True),
        ({"activation_budget_bytes": 1}, True, True),
        ({"device": "cuda"}, False, True),
        ({"plan_sha256": "b" * 64}, False, True),
    ],
)
def test_checkpoint_of_another_machine_is_refused_only_if_bytes_must_be_equal(
    tmp_path: Path, changes: dict[str, Any], is_exact: bool, is_refused: bool
) -> None:
    checkpoint = finalized(write_checkpoint(tmp_path / "checkpoint-4"))
    with pytest.raises(CheckpointRefusedError) if is_refused else nullcontext():
        check_checkpoint(checkpoint, FINGERPRINT | changes, is_exact=is_exact)
