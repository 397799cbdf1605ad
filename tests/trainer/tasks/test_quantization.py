"""Training on a base model in 16, 8 or 4 bits. bitsandbytes has CPU kernels for these tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.domain.progress import Failed, Packaged, Stepped
from tests.model_factories.card_program import card_scores
from tests.model_factories.orders import TinyBase, with_plan
from tests.model_factories.tiny_models import make_decoder
from tests.model_factories.trainer_process import RecordingChannel, certificate_of
from worker.ipc.order import EXIT_DONE
from worker.reward_model import loading
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.run_task import run_task
from worker.trainer.training.lora import add_lora, trainable_parameters

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*(MatMul8bitLt|cast from torch.float32):UserWarning"),
]
LAYERS = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}
each_quantization = pytest.mark.parametrize("quantization", LAYERS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """A model wide enough for blocks of 64 weights."""
    directory = tmp_path_factory.mktemp("wide") / "base"
    make_decoder(directory, hidden_size=64, intermediate_size=128)
    return TinyBase.of(directory, directory.parent / "files")


@each_quantization
def test_everything_but_the_head_is_quantised(base: TinyBase, quantization: str) -> None:
    plan = base.order().plan
    assert plan is not None
    device_config = DeviceConfig("cpu", bf16=False, quantization=quantization)
    loaded = load_base(str(base.directory), device_config, ["score"])
    linear = {n: type(m).__name__ for n, m in loaded.named_modules() if isinstance(m, nn.Linear)}
    assert linear.pop("score") == "Linear"
    assert set(linear) == set(base.facts.linear_modules)
    assert set(linear.values()) == {LAYERS[quantization]}
    model = add_lora(loaded, plan)
    assert {p.dtype for _, p in trainable_parameters(model)} == {torch.float32}
    assert any("score" in name for name, _ in trainable_parameters(model))


def test_bf16_run_is_verified_and_saves_its_weights_in_fp32(
    base: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    status = run_task(base.order(training={"precision": "bf16", "epochs": 2}), channel)
    assert status == EXIT_DONE, channel.of(Failed)
    packaged = channel.of(Packaged)[0]
    certificate = certificate_of(base.order(), work / packaged.directory)
    assert certificate["is_verified"]
    assert (certificate["dtype"], certificate["tensors_lost"]) == ("bfloat16", [])
    tensors = load_file(work / packaged.directory / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}


@each_quantization
def test_adapter_on_a_quantised_base_scores_the_same_after_a_reload(
    base: TinyBase,
    quantization: str,
    channel: RecordingChannel,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "_require_quantization", lambda *_: None)
    # With AVX512-BF16, bitsandbytes packs 4-bit weights in eval mode for a kernel without backward.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    order = with_plan(
        base.order(training={"epochs": 2, "gradient_checkpointing": False}),
        quantization=quantization,
    )
    status = run_task(order, channel)
    assert status == EXIT_DONE, channel.of(Failed)
    packaged = channel.of(Packaged)[0]
    certificate = certificate_of(order, work / packaged.directory)
    assert certificate["max_abs_difference"] < 0.03  # 0.016 was measured with that kernel
    assert packaged.summary["quantization"] == quantization
    assert channel.of(Stepped)[-1].metrics["eval/accuracy"] > 0.9
    tensors = load_file(work / packaged.directory / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert any("score" in name for name in tensors)
    config = json.loads((work / packaged.directory / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    # The program of the card contains the quantisation of the training.
    adapter = work / packaged.directory
    probe = json.loads((adapter / "probes.jsonl").read_text().splitlines()[0])
    scores = card_scores(adapter, str(base.directory), [probe["chosen"], probe["rejected"]])
    assert scores == pytest.approx([probe["chosen_score"], probe["rejected_score"]], abs=0.03)
