"""One real run of ``python -m worker.trainer``: its messages, its checkpoints and its adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from app.domain.lifecycle import Phase
from app.domain.progress import (
    CheckpointSaved,
    Noted,
    Packaged,
    PhaseChanged,
    Reported,
    Stepped,
    Stopped,
    Verified,
)
from tests.model_factories.card_program import card_scores
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_tokenizer
from tests.model_factories.trainer_process import (
    Outcome,
    RecordingChannel,
    StoppingChannel,
    certificate_of,
    run_trainer,
)
from worker.ipc.order import EXIT_DONE, EXIT_STOPPED, VERIFY, WorkOrder
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "probes.jsonl",
    "reward_model.json",
    "run.lock.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def order(llama: TinyBase) -> WorkOrder:
    order = llama.order(training={"epochs": 2, "eval_steps": 6, "checkpoint_steps": 6})
    return order.model_copy(update={"facts": llama.facts})


@pytest.fixture(scope="module")
def run(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    work = tmp_path_factory.mktemp("first") / "work"
    return run_trainer(work, order, env={"PYTHONHASHSEED": "1"})


@pytest.fixture(scope="module")
def adapter(run: Outcome) -> Path:
    return run.work / run.last(Packaged).directory


def test_run_reports_its_phases_and_ends_with_the_package(run: Outcome) -> None:
    phases = [message.phase for message in run.of(PhaseChanged)]
    assert phases == ["tokenizing", "evaluating", "training", "evaluating", "saving"]
    assert isinstance(run.messages[-1], Packaged)
    assert run.status == 0


def test_every_step_reports_its_metrics(run: Outcome) -> None:
    steps = [m for m in run.of(Stepped) if "train/loss" in m.metrics]
    assert [m.step for m in steps] == list(range(1, 13))
    assert {m.total_steps for m in run.of(Stepped)} == {12}
    expected = {"loss", "accuracy", "margin", "grad_norm", "learning_rate", "tokens"}
    assert expected <= {name.removeprefix("train/") for name in steps[0].metrics}


def test_last_step_is_logged_with_the_steps_since_the_previous_log(
    llama: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with fewer steps than ``logging_steps`` would have no training metrics."""
    losses: dict[int, dict[int, float]] = {}
    for logging_steps in (1, 3, 100):
        training = {"max_steps": 5, "batch_size": 4, "logging_steps": logging_steps}
        (work := tmp_path / str(logging_steps)).mkdir()
        monkeypatch.chdir(work)
        channel = RecordingChannel()
        assert run_task(llama.order(count=20, eval_count=0, training=training), channel) == 0
        assert [m.step for m in channel.of(Stepped)] == [1, 2, 3, 4, 5]  # progress is shown
        logged = [m for m in channel.of(Stepped) if "train/loss" in m.metrics]
        losses[logging_steps] = {m.step: m.metrics["train/loss"] for m in logged}
        assert logged[-1].metrics["train/tokens"] > 0
    each = [losses[1][step] for step in range(1, 6)]
    assert losses[3] == {3: pytest.approx(sum(each[:3]) / 3), 5: pytest.approx(sum(each[3:]) / 2)}
    assert losses[100] == {5: pytest.approx(sum(each) / 5)}


def test_last_step_before_an_early_stop_is_logged_once(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    training = {
        "max_steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-9,  # nothing improves
        "eval_steps": 2,
        "early_stopping": {"patience": 1, "min_delta": 1.0},
        "logging_steps": 100,
    }
    assert run_task(llama.order(count=40, training=training), channel) == 0
    assert "stopped_early" in [noted.code for noted in channel.of(Noted)]
    (logged,) = (m for m in channel.of(Stepped) if "train/loss" in m.metrics)
    assert logged.step < 20
    metrics = channel.of(Packaged)[-1].metrics
    assert metrics["train/loss"] == logged.metrics["train/loss"]


def test_run_learns_from_the_pairs(run: Outcome) -> None:
    metrics = run.last(Packaged).metrics
    assert metrics["eval_before/accuracy"] < 0.8
    assert metrics["eval/accuracy"] > 0.9
    assert metrics["eval/accuracy_low"] <= metrics["eval/accuracy"] <= 1.0
    assert {"eval/slice/short", "eval/slice/long", "eval/ece", "eval/brier"} <= metrics.keys()
    assert [report.name for report in run.of(Reported)][-2:] == ["worst_pairs", "full"]
    full = run.of(Reported)[-1].document
    assert full["model"]["metrics"]["accuracy"]["value"] == metrics["eval/accuracy"]


def test_stop_does_not_wait_for_the_end_of_the_first_evaluation(
    order: WorkOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    channel = StoppingChannel(chunks=0, checks=10)
    assert run_task(order, channel) == EXIT_STOPPED
    assert channel.of(PhaseChanged)[-1].phase == Phase.EVALUATING
    assert channel.checks_left == -1
    assert not channel.of(Stepped)
    assert channel.of(Stopped)[0].step == 0


def test_data_and_memory_are_reported_before_training(run: Outcome) -> None:
    training = run.messages.index(PhaseChanged(phase=Phase.TRAINING))
    reports = {m.name: m.document for m in run.messages[:training] if isinstance(m, Reported)}
    assert reports["dataset"]["rows"] == 48
    assert reports["dataset"]["eval_rows"] > 0
    parts = {k: v for k, v in reports["memory"].items() if k not in ("total_bytes", "device_bytes")}
    assert reports["memory"]["total_bytes"] == sum(parts.values())
    assert reports["memory"]["device_bytes"] > reports["memory"]["total_bytes"]
    measured = [m.document for m in run.of(Reported) if m.name == "memory"][-1]
    peak = measured.pop("measured_peak_bytes")
    assert measured == reports["memory"]
    assert 100 << 20 < peak < 4 << 30


def test_checkpoints_are_reported_with_their_files(run: Outcome) -> None:
    saved = run.of(CheckpointSaved)
    assert [m.step for m in saved] == [6, 12]
    for message in saved:
        names = {entry.name for entry in message.files}
        assert names == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "manifest.json",
            "optimizer.pt",
            "rng_state.pth",
            "scheduler.pt",
            "trainer_state.json",
        }
        assert names == {p.name for p in (run.work / message.directory).iterdir()}
        manifest = json.loads((run.work / message.directory / "manifest.json").read_text())
        assert message.metrics == manifest["metrics"]
        (step,) = [
            m for m in run.of(Stepped) if m.step == message.step and "train/loss" in m.metrics
        ]
        assert message.metrics.items() >= step.metrics.items()
        assert "eval_before/accuracy" in message.metrics


def test_package_contains_only_what_a_client_needs(run: Outcome, adapter: Path) -> None:
    message = run.last(Packaged)
    assert {entry.name for entry in message.files} == FILES
    for path in adapter.iterdir():
        content = path.read_bytes()
        assert b"/tmp" not in content
        assert str(run.work).encode() not in content


def test_package_describes_how_to_score(run: Outcome, adapter: Path) -> None:
    summary = json.loads((adapter / "reward_model.json").read_text())
    assert summary == run.last(Packaged).summary
    assert summary["num_labels"] == 1
    assert (summary["pad_token"], summary["pad_token_id"]) == ("<pad>", 0)
    assert summary["score_position"] == "last_token"
    assert (summary["vllm_servable"], summary["vllm_reasons"]) == (True, [])
    assert summary["reward_std"] > 0
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "plaudit/tiny"
    assert config["modules_to_save"] == ["score"]
    assert config["target_modules"] == sorted(config["target_modules"])
    lock = json.loads((adapter / "run.lock.json").read_text())
    assert lock["seed"] == 42
    assert lock["plan"]["lora"]["task_type"] == "SEQ_CLS"
    assert lock["engine"] == "shared_prefix"
    assert (lock["pairs"]["train"]["used"], lock["pairs"]["eval"]["used"]) == (48, 16)
    assert lock["training"] == {
        "steps": 12,
        "planned_steps": 12,
        "published_step": 12,
        "stopped_early": False,
    }


def test_lora_and_head_are_trained(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    b_sides = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    assert len(b_sides) == 14  # seven linear layers in each of two blocks
    assert all(tensor.abs().max() > 0 for tensor in b_sides)  # they start at zero
    assert "base_model.model.score.weight" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_probes_are_completed_with_training_pairs(
    llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    order = llama.order(count=24, eval_count=3)
    assert run_task(order, channel) == EXIT_DONE
    adapter = work / channel.of(Packaged)[0].directory
    probes = [json.loads(line) for line in (adapter / "probes.jsonl").read_text().splitlines()]
    assert [p["dataset"] for p in probes] == ["eval"] * 3 + ["training"] * 13
    assert len({(p["dataset"], p["line"]) for p in probes}) == 16
    rows = Path(str(order.train_file)).read_text().splitlines()
    for probe in probes[3:]:
        row = json.loads(rows[probe["line"] - 1])
        assert row["chosen"][0]["content"] in probe["chosen"]
    certified = certificate_of(order, adapter)["probes"]
    assert [(p["dataset"], p["line"]) for p in certified] == [
        (p["dataset"], p["line"]) for p in probes
    ]


def test_program_of_the_model_card_scores_with_plain_peft(
    run: Outcome, adapter: Path, order: WorkOrder
) -> None:
    assert_card_scores(adapter, order)


def test_program_of_the_model_card_scores_with_a_multimodal_model(tmp_path: Path) -> None:
    """The text part of such a model has its own configuration, and may have its own pad token."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    pad = {"vocab_size": 64, "pad_token_id": 7}
    config = Gemma3Config(
        text_config={**sizes, **heads, **pad},
        vision_config={**sizes, "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    directory = tmp_path / "base"
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(directory)
    make_tokenizer(directory)
    order = TinyBase.of(directory, tmp_path / "files").order(count=16, eval_count=0)
    done = run_trainer(tmp_path / "work", order)
    assert_card_scores(tmp_path / "work" / done.last(Packaged).directory, order)


def test_program_of_the_model_card_refuses_a_text_beyond_the_positions(
    adapter: Path, order: WorkOrder
) -> None:
    with pytest.raises(ValueError, match="more tokens than the model has positions"):
        card_scores(adapter, order.model_dir, ["tea " * 257])


def test_program_of_the_model_card_cuts_texts_as_training_did(
    llama: TinyBase, channel: RecordingChannel, work: Path, tmp_path: Path
) -> None:
    rows = make_pairs(12)
    for row in rows[::2]:
        row["prompt"][0]["content"] = "please " * 100 + row["prompt"][0]["content"]
    limit = {"max_length": 40, "overlong": "truncate_left", "max_steps": 1}
    order = llama.order(rows=rows, eval_count=0, training=limit)
    assert run_task(order, channel) == EXIT_DONE
    adapter = work / channel.of(Packaged)[0].directory
    verifying = order.model_copy(update={"action": VERIFY, "adapter": str(adapter)})
    verified = run_trainer(tmp_path / "verified", verifying).last(Verified)
    assert verified.certificate["max_abs_difference"] < 1e-6
    probe = json.loads((adapter / "probes.jsonl").read_text().splitlines()[-1])
    assert probe["chosen"].count("please") > 100
    assert_card_scores(adapter, order)


def assert_card_scores(adapter: Path, order: WorkOrder) -> None:
    """Assert that the card's program gives the last probe, the longest pair, its scores."""
    probe = json.loads((adapter / "probes.jsonl").read_text().splitlines()[-1])
    scores = card_scores(adapter, order.model_dir, [probe["chosen"], probe["rejected"]])
    assert scores == pytest.approx([probe["chosen_score"], probe["rejected_score"]], abs=1e-5)


def test_log_has_no_warning_that_its_reader_can_do_nothing_about(run: Outcome) -> None:
    assert "FutureWarning" not in run.stderr


def test_another_process_gives_the_same_bytes(
    run: Outcome, adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    again = run_trainer(tmp_path / "elsewhere", order, env={"PYTHONHASHSEED": "2"})
    package = again.last(Packaged)
    for entry in package.files:
        ours, theirs = adapter / entry.name, again.work / package.directory / entry.name
        assert ours.read_bytes() == theirs.read_bytes(), entry.name
    assert package.metrics == run.last(Packaged).metrics


def test_resumed_run_gives_the_same_bytes(
    run: Outcome, adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    resumed = order.model_copy(update={"checkpoints": [str(run.work / "checkpoint-6")]})
    again = run_trainer(tmp_path / "elsewhere", resumed)
    assert [m.step for m in again.of(Stepped) if "train/loss" in m.metrics] == list(range(7, 13))
    package = again.last(Packaged)
    assert package.files == run.last(Packaged).files
    assert package.metrics == run.last(Packaged).metrics
