"""In bfloat16 the head computes in float32, and LoRA's inputs are not cast twice."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from tests.model_factories.architectures import make_base_model
from tests.model_factories.reward_trainers import lora_config, make_model
from worker.reward_model.loading import DeviceConfig, load_classifier
from worker.reward_model.mixed_precision import Float32Linear, without_adapter_casts
from worker.reward_model.scoring import score

TEXTS = [[7, 8, 9, n] for n in range(10, 40)]


@pytest.mark.parametrize(("name", "head"), [("llama", "score"), ("bert", "classifier")])
def test_rewards_are_finer_than_bfloat16(tmp_path, name, head):
    make_base_model(tmp_path, name)
    torch.manual_seed(0)
    model, _ = load_classifier(str(tmp_path), DeviceConfig("cpu", bf16=True), [head])
    layer = model.get_submodule(head)
    assert isinstance(layer, Float32Linear)
    with torch.no_grad():
        layer.weight.mul_(30)
    rewards = torch.tensor(score(model, TEXTS, pad_token_id=0, bf16=True))
    assert (rewards != rewards.bfloat16().float()).float().mean() > 0.9
    assert {p.dtype for n, p in model.named_parameters() if head not in n} == {torch.bfloat16}


def test_head_keeps_its_parameters_and_gets_gradients():
    layer = torch.nn.Linear(4, 1, dtype=torch.bfloat16)
    made = Float32Linear.of(layer)
    assert torch.equal(made.weight, layer.weight.float())
    assert torch.equal(made.bias, layer.bias.float())
    with torch.autocast("cpu", torch.bfloat16):
        made(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
    assert made.weight.grad.tolist() == [[2.0] * 4]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("changes", "is_left_out"),
    [({}, True), ({"use_dora": True}, False), ({"lora_dropout": 0.1}, False)],
)
def test_casts_are_left_out_without_changing_a_bit(changes, is_left_out):
    model = get_peft_model(make_model("llama"), lora_config(**changes)).eval()
    ids = torch.arange(4, 44).reshape(4, 10)

    def run():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            rewards = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        rewards.float().sum().backward()
        return rewards, [p.grad for p in model.parameters() if p.grad is not None]

    def float_casts():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        return next(e.count for e in profile.key_averages() if e.key == "aten::_to_copy")

    rewards, gradients = run()
    before = float_casts()
    with without_adapter_casts(model):
        found, found_gradients = run()
        after = float_casts()
    assert torch.equal(found, rewards)
    assert all(map(torch.equal, found_gradients, gradients))
    assert (after < before) is is_left_out
