from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Packaged
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import (
    Outcome,
    RecordingChannel,
    certificate_of,
    run_trainer,
)
from worker.ipc.order import EXIT_FAILED, WorkOrder
from worker.trainer.run_task import run_task

pytestmark = pytest.mark.train
LOADING = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
merged = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
tokenizer = AutoTokenizer.from_pretrained(merged)
probes = [json.loads(line) for line in open(merged + "/probes.jsonl")]
batch = tokenizer(
    [p["chosen"] for p in probes], padding=True, return_token_type_ids=False, return_tensors="pt",
    add_special_tokens=json.load(open(merged + "/reward_model.json"))["add_special_tokens"],
)
with torch.inference_mode():
    scores = model(**batch).logits[:, 0].tolist()
print(max(abs(s - p["chosen_score"]) for s, p in zip(scores, probes)))
"""


@pytest.fixture(scope="module", params=["llama", "minilm"])
def order(request: pytest.FixtureRequest) -> WorkOrder:
    base: TinyBase = request.getfixturevalue(request.param)
    # Plain text for one of them: it gets an EOS token and the tokenizer's special tokens.
    is_text = request.param == "llama"
    return base.order(count=24, eval_count=8, text=is_text, training={"learning_rate": 0.003})


@pytest.fixture(scope="module")
def trained(order: WorkOrder, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_trainer(tmp_path_factory.mktemp("trained") / "work", order)


def merge_order(order: WorkOrder, trained: Outcome) -> WorkOrder:
    return WorkOrder(
        action="merge",
        model_dir=order.model_dir,
        model_name=order.model_name,
        adapter=str(trained.work / trained.last(Packaged).directory),
    )


def test_merged_model_scores_with_plain_transformers(
    order: WorkOrder, trained: Outcome, tmp_path: Path
) -> None:
    merged = run_trainer(tmp_path / "work", merge_order(order, trained))
    package = merged.last(Packaged)
    directory = merged.work / package.directory
    certificate = certificate_of(merge_order(order, trained), directory)
    assert certificate["is_verified"]
    assert certificate["max_abs_difference"] < 1e-4
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {e.name for e in package.files}
    assert not list(directory.glob("adapter_*"))
    assert b"/tmp" not in b"".join(p.read_bytes() for p in directory.glob("*.json"))
    assert AutoConfig.from_pretrained(directory).num_labels == 1
    done = subprocess.run(
        [sys.executable, "-c", LOADING, directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


@pytest.mark.usefixtures("work")
def test_adapter_on_a_quantised_base_is_not_merged(
    order: WorkOrder, trained: Outcome, tmp_path: Path, channel: RecordingChannel
) -> None:
    summary = json.loads((trained.work / "adapter" / "reward_model.json").read_text())
    (tmp_path / "reward_model.json").write_text(json.dumps(summary | {"quantization": "4bit"}))
    refusal = merge_order(order, trained).model_copy(update={"adapter": str(tmp_path)})
    assert run_task(refusal, channel) == EXIT_FAILED
    failure = channel.of(Failed)[0]
    assert failure.code is FailureCode.INVALID_SPEC
    assert "cannot be merged exactly" in failure.detail


@pytest.mark.usefixtures("work")
def test_adapter_is_not_merged_into_a_changed_base_model(
    order: WorkOrder, trained: Outcome, tmp_path: Path, channel: RecordingChannel
) -> None:
    base = tmp_path / "base"
    shutil.copytree(order.model_dir, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    other = merge_order(order, trained).model_copy(update={"model_dir": str(base)})
    assert run_task(other, channel) == EXIT_FAILED
    assert channel.of(Failed)[0].code is FailureCode.MODEL_CHANGED
