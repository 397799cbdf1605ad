"""One real run of ``python -m worker.trainer``, looked at from all sides."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from app.domain.lifecycle import FailureCode, Phase
from app.domain.progress import CheckpointSaved, Packaged, PhaseChanged, Reported, Stepped
from tests.trainer.conftest import Base, Recorder
from tests.trainer.tiny import ROOT, Outcome, make_tokenizer, run_trainer
from worker.ipc.order import EXIT_DONE, WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import files_digest
from worker.trainer.export.reload_check import verified_certificate
from worker.trainer.inspection.checkpoint import inspect
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
def order(llama: Base) -> WorkOrder:
    order = llama.order(training={"epochs": 2, "eval_steps": 6, "checkpoint_steps": 6})
    return order.model_copy(update={"facts": llama.facts})


@pytest.fixture(scope="module")
def run(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    work = tmp_path_factory.mktemp("first") / "work"
    return run_trainer(work, order, env={"PYTHONHASHSEED": "1"})


@pytest.fixture(scope="module")
def adapter(run: Outcome) -> Path:
    return run.work / run.last(Packaged).directory


def test_goes_through_its_phases_and_ends_with_the_package(run: Outcome) -> None:
    phases = [message.phase for message in run.of(PhaseChanged)]
    assert phases == ["tokenizing", "evaluating", "training", "evaluating", "saving", "verifying"]
    assert isinstance(run.messages[-1], Packaged)
    assert run.status == 0


def test_every_step_says_its_metrics(run: Outcome) -> None:
    steps = [m for m in run.of(Stepped) if "train/loss" in m.metrics]
    assert [m.step for m in steps] == list(range(1, 13))
    assert {m.total_steps for m in run.of(Stepped)} == {12}
    wanted = {"loss", "accuracy", "margin", "grad_norm", "learning_rate", "tokens"}
    assert wanted <= {name.removeprefix("train/") for name in steps[0].metrics}


def test_learns_what_the_pairs_teach(run: Outcome) -> None:
    metrics = run.last(Packaged).metrics
    assert metrics["eval_before/accuracy"] < 0.8
    assert metrics["eval/accuracy"] > 0.9
    assert metrics["eval/accuracy_low"] <= metrics["eval/accuracy"] <= 1.0
    assert {"eval/slice/short", "eval/slice/long", "eval/ece", "eval/brier"} <= metrics.keys()
    assert run.of(Reported)[-1].name == "worst_pairs"


def test_says_before_it_trains_what_its_data_are_and_what_memory_it_takes(run: Outcome) -> None:
    training = run.messages.index(PhaseChanged(phase=Phase.TRAINING))
    said = {m.name: m.document for m in run.messages[:training] if isinstance(m, Reported)}
    assert said["dataset"]["rows"] == 48
    assert said["dataset"]["eval_rows"] > 0
    parts = {k: v for k, v in said["memory"].items() if k not in ("total_bytes", "device_bytes")}
    assert said["memory"]["total_bytes"] == sum(parts.values())
    assert said["memory"]["device_bytes"] > said["memory"]["total_bytes"]


def test_checkpoints_are_said_with_their_files(run: Outcome) -> None:
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
        (said,) = [
            m for m in run.of(Stepped) if m.step == message.step and "train/loss" in m.metrics
        ]
        assert message.metrics.items() >= said.metrics.items()
        assert "eval_before/accuracy" in message.metrics


def test_package_is_what_a_client_needs_and_no_more(run: Outcome, adapter: Path) -> None:
    message = run.last(Packaged)
    assert {entry.name for entry in message.files} == FILES
    assert message.certificate["files"] == {e.name: e.sha256 for e in message.files}
    for path in adapter.iterdir():
        content = path.read_bytes()
        assert b"/tmp" not in content
        assert str(run.work).encode() not in content


def test_package_says_how_to_score(run: Outcome, adapter: Path) -> None:
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


def test_lora_and_head_moved(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    b_sides = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    assert len(b_sides) == 14  # seven linear layers in each of two blocks
    assert all(tensor.abs().max() > 0 for tensor in b_sides)  # they start at zero
    assert "base_model.model.score.weight" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_fresh_process_scores_the_same(run: Outcome) -> None:
    certificate = run.last(Packaged).certificate
    assert certificate["is_verified"] is True
    assert certificate["max_abs_difference"] < 1e-6
    assert len(certificate["probes"]) == 16
    assert all(p["chosen"]["expected"] == p["chosen"]["alone"] for p in certificate["probes"])


def test_probes_that_few_held_out_pairs_leave_wanting_are_of_the_training_pairs(
    llama: Base, recorder: Recorder, work: Path
) -> None:
    order = llama.order(count=24, eval_count=3)
    assert run_task(order, recorder) == EXIT_DONE  # type: ignore[arg-type]
    adapter = work / recorder.of(Packaged)[0].directory
    probes = [json.loads(line) for line in (adapter / "probes.jsonl").read_text().splitlines()]
    assert [p["dataset"] for p in probes] == ["eval"] * 3 + ["training"] * 13
    assert len({(p["dataset"], p["line"]) for p in probes}) == 16
    rows = Path(str(order.train_file)).read_text().splitlines()
    for probe in probes[3:]:
        row = json.loads(rows[probe["line"] - 1])
        assert row["chosen"][0]["content"] in probe["chosen"]
    certified = recorder.of(Packaged)[0].certificate["probes"]
    assert [(p["dataset"], p["line"]) for p in certified] == [
        (p["dataset"], p["line"]) for p in probes
    ]


def test_card_loads_with_plain_peft(run: Outcome, adapter: Path, order: WorkOrder) -> None:
    assert_card_scores(adapter, order)


def test_card_tells_a_model_with_images_where_texts_end(tmp_path: Path) -> None:
    """Its text part has a configuration, and may have a pad token, of its own."""
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
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    order = Base(directory, facts, tmp_path / "files").order(count=16, eval_count=0)
    done = run_trainer(tmp_path / "work", order)
    assert_card_scores(tmp_path / "work" / done.last(Packaged).directory, order)


def assert_card_scores(adapter: Path, order: WorkOrder) -> None:
    """The card's program gives the longest probe pair, in one batch, the scores it must have."""
    card = (adapter / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet
    code = snippet.group(1).replace('"/path/to/plaudit/tiny"', repr(order.model_dir))
    probe = json.loads((adapter / "probes.jsonl").read_text().splitlines()[-1])
    texts = [probe["chosen"], probe["rejected"]]
    code = code.replace("batch = tokenizer(", f"texts = {texts!r}\nbatch = tokenizer(")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=adapter, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FutureWarning" not in done.stderr
    scores = json.loads(done.stdout)
    assert math.isclose(scores[0], probe["chosen_score"], abs_tol=1e-5)
    assert math.isclose(scores[1], probe["rejected_score"], abs_tol=1e-5)


def test_log_has_no_warning_that_its_reader_can_do_nothing_about(run: Outcome) -> None:
    assert "FutureWarning" not in run.stderr


def test_another_process_makes_the_same_bytes(
    run: Outcome, adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    again = run_trainer(tmp_path / "elsewhere", order, env={"PYTHONHASHSEED": "2"})
    package = again.last(Packaged)
    for entry in package.files:
        ours, theirs = adapter / entry.name, again.work / package.directory / entry.name
        assert ours.read_bytes() == theirs.read_bytes(), entry.name
    assert package.certificate == run.last(Packaged).certificate
    assert package.metrics == run.last(Packaged).metrics


def test_resumed_run_makes_the_same_bytes(
    run: Outcome, adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    resumed = order.model_copy(update={"checkpoints": [str(run.work / "checkpoint-6")]})
    again = run_trainer(tmp_path / "elsewhere", resumed)
    assert [m.step for m in again.of(Stepped) if "train/loss" in m.metrics] == list(range(7, 13))
    package = again.last(Packaged)
    assert package.files == run.last(Packaged).files
    assert package.metrics == run.last(Packaged).metrics


def test_broken_head_is_seen(adapter: Path, order: WorkOrder, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in adapter.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors["base_model.model.score.weight"] *= 1.01
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(TrainerError, match="after a reload scores differ") as failure:
        verified_certificate(broken, Path(order.model_dir), device="cpu", threads=1)
    assert failure.value.code is FailureCode.SCORE_MISMATCH


def test_head_that_does_not_arrive_in_the_model_is_named(
    adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in adapter.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "adapter_config.json").read_text())
    config |= {"modules_to_save": None, "task_type": None}
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(TrainerError, match=r"does not have the adapter's base_model.model.score"):
        verified_certificate(broken, Path(order.model_dir), device="cpu", threads=1)


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", FailureCode.TRAINER_CRASHED, "status -9"),
        ("raise MemoryError('no more')", FailureCode.OUT_OF_MEMORY, "MemoryError: no more"),
        ("raise KeyError('r')", FailureCode.SCORE_MISMATCH, "KeyError: 'r'"),
    ],
)
def test_only_bad_files_are_a_mismatch(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    code: FailureCode,
    says: str,
) -> None:
    """A verifier that was killed, or had no memory, says nothing of the adapter."""
    (tmp_path / "sitecustomize.py").write_text(
        "import worker.trainer.export.certificate as certificate\n"
        f"def certify(*_):\n    {program}\n"
        "certificate.certify = certify\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(TrainerError) as failure:
        verified_certificate(adapter, None, device="cpu", threads=1)
    assert failure.value.code is code
    assert says in failure.value.detail


def test_verify_command_prints_the_certificate(
    run: Outcome, adapter: Path, order: WorkOrder, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.trainer.export.verify", adapter, "--base", order.model_dir],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == run.last(Packaged).certificate
