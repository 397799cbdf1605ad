"""Orders that cannot be completed end with a failure code, a reason and the step."""

from __future__ import annotations

import math
import resource
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted, Stepped, Stopped
from tests.model_factories.failures import run_to_failure
from tests.model_factories.orders import TinyBase, with_plan
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.model_factories.trainer_process import RecordingChannel
from worker.ipc.order import EXIT_STOPPED, WorkOrder
from worker.reward_model.file_digests import model_digest
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.usefixtures("work"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
#: A learning rate that changes no weight: the run ends as soon as it has trained.
TRAINS_NOTHING = {"learning_rate": 1e-60}


def test_nan_margin_stops_the_step(llama: TinyBase, channel: RecordingChannel) -> None:
    rows = make_pairs(16)
    for row in rows:
        row["margin"] = 0.5
    rows[5]["margin"] = math.nan
    failure = run_to_failure(llama.order(rows=rows, eval_count=0), channel)
    assert failure.code is FailureCode.NAN_LOSS
    assert failure.step
    assert f"the loss at step {failure.step} is" in failure.detail
    assert not any(math.isnan(v) for m in channel.of(Stepped) for v in m.metrics.values())


def test_infinite_gradient_stops_the_step(llama: TinyBase, channel: RecordingChannel) -> None:
    centering = {"center_rewards_coefficient": 0.1}
    order = llama.order(rows=make_pairs(16), eval_count=0, training=centering)
    order = with_plan(order, reward={"center_rewards_coefficient": 1e38})
    assert run_to_failure(order, channel).code is FailureCode.NAN_LOSS


def test_eval_pair_with_a_nan_score_is_named(tmp_path: Path, channel: RecordingChannel) -> None:
    directory = make_decoder(tmp_path / "broken")
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    lamps = AutoTokenizer.from_pretrained(directory).convert_tokens_to_ids("lamps")
    tensors["model.embed_tokens.weight"][lamps] = math.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    without_lamps = [row for row in make_pairs(48) if "lamps" not in str(row)]
    base = TinyBase.of(directory, tmp_path / "files")
    order = base.order(rows=without_lamps, eval_count=40)
    assert order.eval_file
    lines = Path(order.eval_file).read_text().splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "lamps" in line)
    failure = run_to_failure(order, channel)
    assert failure.code is FailureCode.NAN_LOSS
    assert f"the score of line {first} of the eval pairs at step 0 is" in failure.detail


def test_run_that_changes_no_weight_fails(llama: TinyBase, channel: RecordingChannel) -> None:
    order = with_plan(llama.order(count=8, eval_count=0), reward=TRAINS_NOTHING)
    failure = run_to_failure(order, channel)
    assert failure.code is FailureCode.NOTHING_TRAINED
    assert failure.detail.startswith("after 1 steps")
    assert failure.step == 1


def test_cause_of_an_unchanged_weight_is_found_without_a_logged_step(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    training = {"max_steps": 1, "warmup_steps": 1, "logging_steps": 100}
    failure = run_to_failure(llama.order(count=8, eval_count=0, training=training), channel)
    assert failure.code is FailureCode.NOTHING_TRAINED
    assert "the learning rate was still 0, as the warm-up" in failure.detail


def test_failure_from_a_library_has_the_step_and_a_traceback_in_the_log(
    llama: TinyBase, channel: RecordingChannel, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "checkpoint-2").write_text("a file in the place of the checkpoint's directory")
    order = llama.order(count=24, eval_count=0, training={"checkpoint_steps": 1, "batch_size": 8})
    failure = run_to_failure(order, channel)
    assert (failure.code, failure.step) == (FailureCode.HOST_ERROR, 2)
    assert "checkpoint-2" in failure.detail
    assert "Traceback" in capfd.readouterr().err


def test_quantisation_without_a_gpu_is_refused(llama: TinyBase, channel: RecordingChannel) -> None:
    failure = run_to_failure(with_plan(llama.order(), quantization="4bit"), channel)
    assert failure.code is FailureCode.QUANTIZATION_UNAVAILABLE
    assert "needs a CUDA GPU" in failure.detail


def test_full_disk_at_a_checkpoint_has_its_own_code(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    order = llama.order(count=16, eval_count=0, training={"checkpoint_steps": 1, "batch_size": 8})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for the adapter's weights; the optimiser's file is cut off, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (32_000, hard))
    try:
        failure = run_to_failure(order, channel)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failure.code, failure.step) == (FailureCode.DISK_FULL, 1)
    assert "unexpected pos" in failure.detail


def test_required_shared_prefix_backend_that_is_unsupported_is_refused(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    order = with_plan(llama.order(lora={"dropout": 0.1}), engine="shared_prefix")
    failure = run_to_failure(order, channel)
    assert failure.code is FailureCode.ENGINE_UNSUPPORTED
    assert "dropout is active" in failure.detail


@pytest.mark.parametrize(
    ("model", "reason", "is_warning"),
    [("llama", "dropout is active", True), ("minilm", "not a causal decoder", False)],
)
def test_fallback_to_the_stock_backend_has_a_reason(
    channel: RecordingChannel,
    request: pytest.FixtureRequest,
    model: str,
    reason: str,
    *,
    is_warning: bool,
) -> None:
    base: TinyBase = request.getfixturevalue(model)
    order = base.order(count=8, eval_count=0, lora={"dropout": 0.1})
    run_to_failure(with_plan(order, reward=TRAINS_NOTHING), channel)
    (note,) = [m for m in channel.of(Noted) if m.code == "engine_stock"]
    assert reason in note.message
    assert note.is_warning is is_warning  # encoders are never supported


def test_random_weights_that_would_not_be_saved_are_refused(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    failure = run_to_failure(with_plan(llama.order(), head_modules=["classifier"]), channel)
    assert failure.code is FailureCode.MODEL_UNSUPPORTED
    assert "files lack score.weight" in failure.detail


def test_stop_before_the_first_step_needs_no_checkpoint(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    channel.is_stop_wanted = True
    assert run_task(llama.order(), channel) == EXIT_STOPPED
    assert channel.messages[-1] == Stopped(step=0)


def test_stop_does_not_wait_until_the_base_model_is_loaded(
    llama: TinyBase, channel: RecordingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        assert channel._exits_on_stop
        raise MemoryError

    monkeypatch.setattr("worker.trainer.tasks.train.load_base", load)
    assert run_to_failure(llama.order(), channel).code is FailureCode.OUT_OF_MEMORY
    assert not channel._exits_on_stop


def test_missing_model_directory_is_reported(channel: RecordingChannel, tmp_path: Path) -> None:
    order = WorkOrder(action="inspect", model_dir=str(tmp_path / "none"), model_name="none")
    failure = run_to_failure(order, channel)
    assert failure.code is FailureCode.MODEL_NOT_FOUND
    assert "none does not exist" in failure.detail


@pytest.mark.parametrize("action", ["train", "inspect"])
def test_base_model_whose_files_have_changed_is_refused(
    llama: TinyBase, channel: RecordingChannel, tmp_path: Path, action: str
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(llama.directory, directory)
    order = llama.order(count=8, eval_count=0)
    order = order.model_copy(update={"model_dir": str(directory), "action": action})
    make_decoder(directory, intermediate_size=32)  # the same tokenizer, other weights
    failure = run_to_failure(order, channel)
    assert failure.code is FailureCode.MODEL_CHANGED
    assert llama.facts.digest in failure.detail
    assert model_digest(directory) in failure.detail
