"""Models and arguments that cannot use packed rows are rejected with a clear reason."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from trl import RewardConfig, RewardTrainer

from tests.model_factories.reward_trainers import (
    SHAPE,
    assert_close,
    gradients,
    lora_config,
    make_model,
    make_rows,
    make_trainer,
)
from worker.trainer.shared_prefix import (
    SharedPrefixRewardTrainer,
    check_parity,
    parity_check,
    unsupported_reason,
)

ROWS = make_rows([(10, 5, 9), (3, 4, 2)])
LINEAR_ATTENTION = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "num_hidden_layers": 4,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 256,
}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


def arguments(tmp_path, **changes):
    return RewardConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **changes)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("bert", {}, "not a causal decoder"),
        ("modernbert", {"global_attn_every_n_layers": 1}, "not a causal decoder"),
        ("qwen3_next", LINEAR_ATTENTION, "does not support other attention functions"),
        ("bloom", {"n_head": 4, "n_layer": 2}, "does not support other attention functions"),
        ("phi3", {"rope_parameters": LONG_ROPE}, "longrope"),
        ("llama", {"rope_parameters": DYNAMIC_ROPE}, "dynamic"),
        ("llama", {"attention_dropout": 0.1}, "dropout is active"),
        ("llama", {"pad_token_id": None}, "no padding token"),
    ],
)
def test_unsupported_model_is_refused(tmp_path, family, changes, reason):
    found = unsupported_reason(make_model(family, **changes), arguments(tmp_path))

    assert reason in found


def test_adapter_dropout_is_refused_unless_trl_disables_it(tmp_path):
    def trainer(**arguments):
        given = {"peft_config": lora_config(lora_dropout=0.1)}
        return make_trainer(
            SharedPrefixRewardTrainer, tmp_path, ROWS, trainer_arguments=given, **arguments
        )

    without_dropout, with_dropout = trainer(), trainer(disable_dropout=False)
    assert unsupported_reason(without_dropout.model, without_dropout.args) is None
    assert "lora_dropout" in unsupported_reason(with_dropout.model, with_dropout.args)


def test_prompt_tuning_is_refused(tmp_path):
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    model = get_peft_model(make_model("llama"), config)

    assert "PROMPT_TUNING" in unsupported_reason(model, arguments(tmp_path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"torch_compile": True}, "torch_compile"),
        ({"neftune_noise_alpha": 1.0}, "neftune"),
        ({"optim": "lomo"}, "optimiser"),
    ],
)
def test_arguments_that_change_the_training_step_are_refused(tmp_path, changes, reason):
    assert reason in unsupported_reason(make_model("llama"), arguments(tmp_path, **changes))


def test_several_processes_are_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setattr(type(args), "world_size", 2)

    assert "several processes" in unsupported_reason(make_model("llama"), args)


def test_parity_check_finds_a_layer_that_bypasses_the_packed_attention(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    attention = trainer.packed_model.attentions[1]
    # A kernel in place of the attention that ignores the segments.
    attention.forward = lambda hidden_states, **_: (hidden_states.cumsum(dim=1), None)

    result = check_parity(trainer)
    assert not result.has_parity
    assert "1 of 3 attention layers" in result.reason


def test_parity_check_finds_state_that_leaks_along_the_row(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    layer = trainer.packed_model.layers[0]
    layer.mlp.register_forward_hook(lambda _m, _a, output: output.cumsum(dim=1) / 10)

    result = check_parity(trainer)
    assert not result.has_parity
    assert "hidden states differ" in result.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_check_does_not_depend_on_the_head_that_was_drawn(tmp_path, dtype):
    """A head at a right angle to the hidden states gives rewards that are rounding errors."""
    trainer = make_trainer(
        SharedPrefixRewardTrainer, tmp_path, ROWS, model=make_model("llama").to(dtype)
    )
    hidden = []
    head = trainer.packed_model.head
    hook = head.register_forward_hook(lambda _m, inputs, _o: hidden.append(inputs[0]))
    assert check_parity(trainer).has_parity
    hook.remove()
    ends = hidden[-1].detach()[0].double()
    weight = head.weight.detach().double()
    with torch.no_grad():
        head.weight.copy_(weight - weight @ torch.linalg.pinv(ends) @ ends)

    result = check_parity(trainer)
    assert result.reason is None
    assert result.difference < parity_check.TOLERANCE[dtype] / 3


def test_parity_check_finds_a_model_that_changes_what_its_head_returns(tmp_path):
    model = make_model("llama")
    model.register_forward_hook(
        lambda _m, _a, output: setattr(output, "logits", output.logits.tanh())
    )
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS, model=model)

    assert "does not return its head's outputs" in check_parity(trainer).reason


def test_parity_check_returns_an_exception_as_the_reason(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)

    def crash(*_):
        raise RuntimeError("no such kernel")

    trainer.packed_model.layers[1].mlp.register_forward_hook(crash)

    assert "no such kernel" in check_parity(trainer).reason


def test_parity_check_refuses_nan(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    with torch.no_grad():
        trainer.packed_model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")

    assert not check_parity(trainer).has_parity


@pytest.mark.parametrize("family", ["gpt2", "diffllama"])
def test_last_layer_is_not_trimmed_where_the_model_does_not_allow_it(tmp_path, family):
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4} if family == "gpt2" else {}
    stock, ours = (
        make_trainer(
            trainer_class,
            tmp_path,
            ROWS,
            model=make_model(family, **sizes),
            trainer_arguments={"peft_config": None},
        )
        for trainer_class in (RewardTrainer, SharedPrefixRewardTrainer)
    )

    assert check_parity(ours).has_parity
    assert not ours.packed_model.trims_last_layer
    loss, expected = gradients(stock, ROWS)
    our_loss, found = gradients(ours, ROWS)
    assert our_loss == pytest.approx(loss, abs=1e-6)
    # Both rewards of a pair cancel out at some biases, and at DiffLlama's lambdas.
    assert_close(found, expected, relative_to_largest=True)


def test_parity_check_finds_a_window_that_the_attention_does_not_pass_on(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    trainer.model.config.sliding_window = 4096

    assert "sliding window" in check_parity(trainer).reason


def test_packed_pass_restores_the_attention_of_the_model(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    before = trainer.model.config._attn_implementation
    check_parity(trainer)

    assert trainer.model.config._attn_implementation == before
    assert SHAPE["num_hidden_layers"] == len(trainer.packed_model.attentions)
    assert isinstance(trainer, RewardTrainer)
    assert isinstance(trainer.model.peft_config["default"], LoraConfig)
