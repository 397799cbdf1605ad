"""16, 8 and 4 bits for the base, never for the head; bitsandbytes has CPU kernels to see it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.domain.progress import Failed, Packaged, Stepped
from tests.trainer.conftest import Base, Recorder
from tests.trainer.test_failures import changed
from tests.trainer.tiny import make_decoder
from worker.ipc.order import EXIT_DONE
from worker.reward_model import loading as models
from worker.reward_model.file_digests import files_digest
from worker.reward_model.loading import DeviceConfig, load_base, trainable, wrap
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*(MatMul8bitLt|cast from torch.float32):UserWarning"),
]
LAYERS = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}
bits = pytest.mark.parametrize("quantization", LAYERS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Wide enough for a block of 64 weights."""
    directory = tmp_path_factory.mktemp("wide") / "base"
    make_decoder(directory, hidden_size=64, intermediate_size=128)
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    return Base(directory, facts, directory.parent / "files")


@bits
def test_everything_but_the_head_is_quantised(base: Base, quantization: str) -> None:
    plan = base.order().plan
    assert plan is not None
    loaded = load_base(str(base.directory), DeviceConfig("cpu", False, quantization), ["score"])
    linear = {n: type(m).__name__ for n, m in loaded.named_modules() if isinstance(m, nn.Linear)}
    assert linear.pop("score") == "Linear"
    assert set(linear) == set(base.facts.linear_modules)
    assert set(linear.values()) == {LAYERS[quantization]}
    wrapped = wrap(loaded, plan)
    assert {p.dtype for _, p in trainable(wrapped)} == {torch.float32}
    assert any("score" in name for name, _ in trainable(wrapped))


def test_run_in_bf16_is_verified_with_its_head_in_fp32(
    base: Base, recorder: Recorder, work: Path
) -> None:
    status = run_task(base.order(training={"precision": "bf16", "epochs": 2}), recorder)  # type: ignore[arg-type]
    assert status == EXIT_DONE, recorder.of(Failed)
    packaged = recorder.of(Packaged)[0]
    assert (packaged.certificate["dtype"], packaged.certificate["tensors_lost"]) == ("bfloat16", [])
    tensors = load_file(work / packaged.directory / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}


@bits
def test_adapter_on_a_quantised_base_scores_the_same_after_a_reload(
    base: Base,
    quantization: str,
    recorder: Recorder,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "_require_quantization", lambda *_: None)
    # With AVX512-BF16 an evaluation packs 4-bit weights for a kernel of bfloat16 without backward.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    order = changed(
        base.order(training={"epochs": 2, "gradient_checkpointing": False}),
        quantization=quantization,
    )
    status = run_task(order, recorder)  # type: ignore[arg-type]
    assert status == EXIT_DONE, recorder.of(Failed)
    packaged = recorder.of(Packaged)[0]
    # The reload, a process of its own, may take that kernel: 0.016 was seen.
    assert packaged.certificate["max_abs_difference"] < 0.03
    assert packaged.summary["quantization"] == quantization
    assert recorder.of(Stepped)[-1].metrics["eval/accuracy"] > 0.9
    tensors = load_file(work / packaged.directory / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert any("score" in name for name in tensors)
    config = json.loads((work / packaged.directory / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    # The card's program is on its own: it quantises as the training did, from what it says alone.
    probe = packaged.certificate["probes"][0]
    texts = json.loads((work / packaged.directory / "probes.jsonl").read_text().splitlines()[0])
    scores = card_scores(work / packaged.directory, base, [texts["chosen"], texts["rejected"]])
    for score, reply in zip(scores, ("chosen", "rejected"), strict=True):
        assert score == pytest.approx(probe[reply]["expected"], abs=0.03)


def card_scores(adapter: Path, base: Base, texts: list[str]) -> list[float]:
    found = re.search(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    assert found
    code = found[1].replace('"/path/to/plaudit/tiny"', repr(str(base.directory)))
    code = code.replace("batch = tokenizer(", f"texts = {texts!r}\nbatch = tokenizer(")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=adapter, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scores: list[float] = json.loads(done.stdout)
    return scores
