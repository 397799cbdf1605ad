"""Orders that cannot be carried out end with a code that says whose turn it is."""

from __future__ import annotations

import errno
import math
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Inspected, Noted, Packaged, Reported, Stepped, Stopped
from tests.trainer.conftest import Base, Recorder
from tests.trainer.tiny import make_decoder, make_pairs, run_trainer
from worker.ipc.order import EXIT_FAILED, EXIT_STOPPED, WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import files_digest
from worker.trainer.diagnosis import diagnose
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.usefixtures("work"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


def changed(order: WorkOrder, **fields: Any) -> WorkOrder:
    """The order with another plan, as no compiler would make it; mappings are merged."""
    assert order.plan
    plan = order.plan.model_dump(mode="json")
    for name, value in fields.items():
        plan[name] = plan[name] | value if isinstance(value, dict) else value
    return order.model_copy(update={"plan": type(order.plan).model_validate(plan)})


def failed(order: WorkOrder, recorder: Recorder) -> Failed:
    assert run_task(order, recorder) == EXIT_FAILED  # type: ignore[arg-type]
    assert not recorder.of(Packaged)
    message = recorder.messages[-1]
    assert isinstance(message, Failed)
    return message


def test_margin_that_is_no_number_stops_the_step(llama: Base, recorder: Recorder) -> None:
    rows = make_pairs(16)
    for row in rows:
        row["margin"] = 0.5
    rows[5]["margin"] = math.nan
    failure = failed(llama.order(rows=rows, eval_count=0), recorder)
    assert failure.code is FailureCode.NAN_LOSS
    assert failure.step
    assert f"the loss at step {failure.step} is" in failure.detail
    assert not any(math.isnan(v) for m in recorder.of(Stepped) for v in m.metrics.values())


def test_exploding_gradient_stops_the_step(llama: Base, recorder: Recorder) -> None:
    rows = make_pairs(16)
    order = changed(
        llama.order(rows=rows, eval_count=0, training={"center_rewards_coefficient": 0.1}),
        reward={"center_rewards_coefficient": 1e38},
    )
    failure = failed(order, recorder)
    assert failure.code is FailureCode.NAN_LOSS


def test_held_out_pair_whose_score_is_no_number_is_named(
    tmp_path: Path, recorder: Recorder
) -> None:
    directory = make_decoder(tmp_path / "broken")
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    lamps = AutoTokenizer.from_pretrained(directory).convert_tokens_to_ids("lamps")
    tensors["model.embed_tokens.weight"][lamps] = math.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    sound = [row for row in make_pairs(48) if "lamps" not in str(row)]
    order = Base(directory, facts, tmp_path / "files").order(rows=sound, eval_count=40)
    assert order.eval_file
    lines = Path(order.eval_file).read_text().splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "lamps" in line)
    failure = failed(order, recorder)
    assert failure.code is FailureCode.NAN_LOSS
    assert f"the score of line {first} of the held-out pairs at step 0 is" in failure.detail


def test_run_that_moves_nothing_fails(llama: Base, recorder: Recorder) -> None:
    order = changed(llama.order(count=8, eval_count=0), reward={"learning_rate": 1e-60})
    failure = failed(order, recorder)
    assert failure.code is FailureCode.NOTHING_TRAINED
    assert failure.detail.startswith("after 1 steps")
    assert failure.step == 1


def test_error_of_a_library_says_at_which_step_it_came(
    llama: Base, recorder: Recorder, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "checkpoint-2").write_text("a file where the checkpoint must go")
    order = llama.order(count=24, eval_count=0, training={"checkpoint_steps": 1, "batch_size": 8})
    failure = failed(order, recorder)
    assert (failure.code, failure.step) == (FailureCode.HOST_ERROR, 2)
    assert "checkpoint-2" in failure.detail
    assert "Traceback" in capfd.readouterr().err


def with_long_reply(count: int) -> list[dict[str, Any]]:
    rows = make_pairs(count)
    rows[4]["chosen"][0]["content"] = "the " * 200
    return rows


def unusable(base: Base, case: str) -> WorkOrder:
    """An order whose data nothing can be learned from, each for a reason of its own."""
    if case == "overlong":
        limit = {"max_length": 64, "overlong": "error"}
        return base.order(rows=with_long_reply(12), eval_count=0, training=limit)
    if case == "none left":
        return changed(base.order(count=8, eval_count=0), tokenization={"max_length": 3})
    if case == "template":
        strict = "{{ raise_exception('no such role') }}"
        return changed(base.order(count=8, eval_count=0), tokenization={"chat_template": strict})
    if case == "pad token":
        rows = make_pairs(8, text=True)
        rows[2]["rejected"] += " <pad>"
        order = base.order(rows=rows, eval_count=0, text=True)
        return changed(order, tokenization={"append_eos": False})
    rows = [row | {"prompt": make_pairs(1)[0]["prompt"]} for row in make_pairs(8)]
    order = base.order(rows=rows, eval_count=0)
    return changed(order, data={"eval": None, "eval_fraction": 0.25})


@pytest.mark.parametrize(
    ("case", "code", "reason"),
    [
        ("overlong", "pairs_overlong", "line 5: longer than max_length=64 tokens"),
        ("none left", "pairs_overlong", "all 8 pairs are longer than max_length=3 tokens"),
        ("template", "dataset_invalid", "the chat template cannot render it: no such role"),
        ("pad token", "dataset_invalid", "line 3: a text ends in '<pad>'"),
        ("one prompt", "dataset_invalid", "every pair has the same prompt"),
    ],
)
def test_inspection_refuses_the_data_that_the_job_would(
    llama: Base, recorder: Recorder, case: str, code: str, reason: str
) -> None:
    order = unusable(llama, case)
    failure = failed(order, recorder)
    assert failure.code == code
    assert reason in failure.detail
    dry = Recorder()
    assert failed(order.model_copy(update={"action": "inspect"}), dry) == failure
    assert not dry.of(Inspected)
    reports = [m.name for m in dry.of(Reported)]
    assert reports == ["dataset", "memory"]


def test_real_inspection_reports_the_data_it_refuses(llama: Base, tmp_path: Path) -> None:
    order = unusable(llama, "overlong").model_copy(update={"action": "inspect"})
    done = run_trainer(tmp_path / "work", order)
    assert done.status == EXIT_FAILED
    assert done.last(Failed).code is FailureCode.PAIRS_OVERLONG
    assert done.messages[-1] == done.last(Failed)
    report = next(m.document for m in done.of(Reported) if m.name == "dataset")
    assert report["rows"] == 12
    assert report["findings"]["overlong"] == {"count": 1, "lines": [5]}


def test_quantisation_without_a_gpu_is_refused(llama: Base, recorder: Recorder) -> None:
    failure = failed(changed(llama.order(), quantization="4bit"), recorder)
    assert failure.code is FailureCode.QUANTIZATION_UNAVAILABLE
    assert "needs a CUDA GPU" in failure.detail


def test_disk_that_is_full_at_a_checkpoint_is_called_so(llama: Base, recorder: Recorder) -> None:
    order = llama.order(count=16, eval_count=0, training={"checkpoint_steps": 1, "batch_size": 8})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the adapter's weights; writing those of the optimiser comes to an end, as on a disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (32_000, hard))
    try:
        failure = failed(order, recorder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failure.code, failure.step) == (FailureCode.DISK_FULL, 1)
    assert "unexpected pos" in failure.detail


def test_fast_engine_that_was_insisted_on_is_refused(llama: Base, recorder: Recorder) -> None:
    order = changed(llama.order(lora={"dropout": 0.1}), engine="shared_prefix")
    failure = failed(order, recorder)
    assert failure.code is FailureCode.ENGINE_UNSUPPORTED
    assert "dropout is in use" in failure.detail


@pytest.mark.parametrize(
    ("model", "reason", "is_warning"),
    [("llama", "dropout is in use", True), ("minilm", "not a causal decoder", False)],
)
def test_fallback_from_the_fast_engine_says_why(
    recorder: Recorder, request: pytest.FixtureRequest, model: str, reason: str, is_warning: bool
) -> None:
    base: Base = request.getfixturevalue(model)
    order = base.order(count=8, eval_count=0, lora={"dropout": 0.1})
    failed(changed(order, reward={"learning_rate": 1e-60}), recorder)  # only as far as that
    (note,) = [m for m in recorder.of(Noted) if m.code == "engine_stock"]
    assert reason in note.message
    assert note.is_warning is is_warning  # an encoder has no choice; a warning is on the job


def test_weights_that_would_be_random_and_lost_are_refused(llama: Base, recorder: Recorder) -> None:
    failure = failed(changed(llama.order(), head_modules=["classifier"]), recorder)
    assert failure.code is FailureCode.MODEL_UNSUPPORTED
    assert "lacks score.weight" in failure.detail


def test_overlong_pairs_are_counted_and_named(llama: Base, recorder: Recorder) -> None:
    rows = make_pairs(12)
    rows[3]["chosen"][0]["content"] = "the " * 300
    order = changed(llama.order(rows=rows, eval_count=0), reward={"learning_rate": 1e-60})
    failed(order, recorder)  # it only has to get as far as that
    note = next(m for m in recorder.of(Noted) if m.code == "pairs_dropped")
    assert note.is_warning
    assert note.message.startswith("1 of 12 training pairs")
    assert note.data["lines"] == [4]


def test_eval_prompts_that_are_trained_on_are_counted_and_named(
    llama: Base, recorder: Recorder
) -> None:
    rows = make_pairs(12)
    order = llama.order(rows=rows, eval_count=4).model_copy(update={"action": "inspect"})
    assert order.train_file
    lines = Path(order.train_file).read_text().splitlines(keepends=True)
    Path(str(order.eval_file)).write_text("".join(lines[:3]))
    assert run_task(order, recorder) == 0  # type: ignore[arg-type]
    note = next(m for m in recorder.of(Noted) if m.code == "eval_leaked")
    assert note.is_warning
    assert note.message.startswith("3 of 3 eval pairs")
    assert note.data["lines"] == [1, 2, 3]


@pytest.mark.parametrize(("eval_steps", "is_told"), [(5, True), (4, False)])
def test_evaluations_that_training_does_not_last_for_are_a_warning(
    llama: Base, recorder: Recorder, eval_steps: int, is_told: bool
) -> None:
    training = {"max_steps": 4, "eval_steps": eval_steps, "early_stopping": {}}
    order = llama.order(training=training).model_copy(update={"action": "inspect"})
    assert run_task(order, recorder) == 0  # type: ignore[arg-type]
    told = [m.message for m in recorder.of(Noted) if m.code == "eval_steps_unreached"]
    assert bool(told) == is_told
    if told:
        assert told[0].startswith("eval_steps 5 is more than the 4 steps")
        assert told[0].endswith("early_stopping does nothing")


def test_stop_before_the_first_step_needs_no_checkpoint(llama: Base, recorder: Recorder) -> None:
    recorder.is_stop_wanted = True
    assert run_task(llama.order(), recorder) == EXIT_STOPPED  # type: ignore[arg-type]
    assert recorder.messages[-1] == Stopped(step=0)


def test_inspection_says_what_the_model_is(llama: Base, recorder: Recorder) -> None:
    order = llama.order().model_copy(update={"action": "inspect"})
    assert run_task(order, recorder) == 0  # type: ignore[arg-type]
    assert recorder.of(Inspected)[0].facts == llama.facts
    assert {m.name for m in recorder.of(Reported)} == {"dataset", "memory"}


def test_model_that_is_not_there_is_a_failure_with_a_reason(
    recorder: Recorder, tmp_path: Path
) -> None:
    order = WorkOrder(action="inspect", model_dir=str(tmp_path / "none"), model_name="none")
    assert failed(order, recorder).code is FailureCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("action", ["train", "inspect"])
def test_base_model_that_was_replaced_in_place_is_refused(
    llama: Base, recorder: Recorder, tmp_path: Path, action: str
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(llama.directory, directory)
    order = llama.order(count=8, eval_count=0)
    order = order.model_copy(update={"model_dir": str(directory), "action": action})
    make_decoder(directory, intermediate_size=32)  # the same tokenizer, other weights
    failure = failed(order, recorder)
    assert failure.code is FailureCode.MODEL_CHANGED
    assert llama.facts.digest in failure.detail
    assert files_digest(directory) in failure.detail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), FailureCode.CUDA_OOM),
        (RuntimeError("CUDA error: an illegal memory access"), FailureCode.CUDA_ERROR),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureCode.OUT_OF_MEMORY),
        (MemoryError(), FailureCode.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), FailureCode.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), FailureCode.DISK_FULL),
        (RuntimeError("basic_ios::clear: iostream error"), FailureCode.DISK_FULL),
        (OSError(errno.EIO, "Input/output error"), FailureCode.HOST_ERROR),
        (RuntimeError("I/O error: Read-only file system (os error 30)"), FailureCode.HOST_ERROR),
        (OSError("tiny does not appear to have a file named x"), FailureCode.INTERNAL),
        (TrainerError(FailureCode.NAN_LOSS, "as it is"), FailureCode.NAN_LOSS),
        (KeyError("anything else"), FailureCode.INTERNAL),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_get_the_code_that_can_be_told(error: Exception, code: FailureCode) -> None:
    assert diagnose(error).code is code
