"""The model that ``make bench-train`` trains on a GPU, and the FLOPs that it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from app.domain.spec import LoraSpec
from bench.train_arm import service_model
from bench.utilisation import BACKWARD_SHARE, Factor, Recorder
from tests.model_factories.tiny_models import make_decoder
from worker.reward_model.mixed_precision import Float32Linear


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_bf16_arms_train_what_the_service_trains_on_a_gpu(tmp_path: Path) -> None:
    model = service_model(make_decoder(tmp_path / "base"))
    default = LoraSpec()
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.0)
    assert (config.r, config.lora_alpha) == (default.r, default.alpha)
    assert "score" in config.modules_to_save
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    # Seven linear layers in each of two blocks have two factors each; the head is trained too.
    assert len(trained) == 2 * 7 * 2 + 1
    base = model.get_base_model()
    assert base.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16
    assert isinstance(base.score.original_module, Float32Linear)


def test_flops_of_linear_layers_are_those_that_torch_counts() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(24, 16), torch.randn(24), torch.randn(8, 24)]
    inputs = torch.randn(2, 5, 16, requires_grad=True)

    def step() -> None:
        hidden = linear(inputs, weights[0], weights[1])
        linear(hidden, weights[2]).sum().backward()

    with FlopCounterMode(display=False) as counted:
        step()
    with Recorder() as recorded:
        step()
    assert recorded.product_flops == counted.get_total_flops() > 0
    assert recorded.attention_flops == 0


def test_flops_of_causal_attention_are_half() -> None:
    shape = (1, 4, 32, 16)
    flops: dict[bool, float] = {}
    for is_causal in (False, True):
        tensors: list[Any] = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        with Recorder() as recorded:
            scaled_dot_product_attention(*tensors, is_causal=is_causal).sum().backward()
        flops[is_causal] = recorded.attention_flops
    products = 2 * (2 * 4 * 32 * 32 * 16)
    assert flops[False] == products * (1 + BACKWARD_SHARE)
    assert flops[True] == flops[False] / 2


def test_drawn_factors_have_shape_strides_and_dtype_of_the_recorded_ones() -> None:
    recorded = torch.zeros(6, 4, dtype=torch.bfloat16).t()[:, ::2]
    drawn = Factor.of(recorded).draw(torch.device("cpu"))
    assert (drawn.shape, drawn.stride(), drawn.dtype) == (
        recorded.shape, recorded.stride(), recorded.dtype,
    )  # fmt: skip
    assert drawn.float().std() > 0
