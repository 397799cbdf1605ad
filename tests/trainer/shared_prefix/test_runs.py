"""Whole runs compared with stock TRL: logs, evaluation, accumulation, chunks and resuming."""

import pytest
import torch
from safetensors.torch import load_file
from trl import RewardTrainer

from tests.model_factories.reward_trainers import (
    assert_close,
    gradients,
    make_model,
    make_rows,
    make_trainer,
)
from worker.reward_model.scoring import score
from worker.trainer.shared_prefix import ParityResult, SharedPrefixRewardTrainer, check_parity
from worker.trainer.shared_prefix.memory import ActivationCost, frozen_weights_cast

ROWS = make_rows([(4 + i % 9, 1 + i % 5, 1 + (i * 3) % 7) for i in range(22)], has_margin=True)
# 5 steps per epoch with a last batch of 2: an incomplete batch shows errors in averages.
RUN = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 4, "eval_rows": ROWS[:10]}


def run(trainer_class, folder, **arguments):
    trainer = make_trainer(trainer_class, folder, ROWS, **arguments)
    trainer.train()
    return trainer


def history(trainer):
    kept = ("loss", "reward", "accuracy", "margin", "num_tokens", "grad_norm", "learning_rate")
    return [
        {k: v for k, v in entry.items() if k == "step" or any(k.endswith(n) for n in kept)}
        for entry in trainer.state.log_history
    ]


def weights(trainer):
    return {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same_history(trainer, stock):
    ours, theirs = history(trainer), history(stock)
    assert [entry.keys() for entry in ours] == [entry.keys() for entry in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_run_logs_what_stock_logs(tmp_path, accumulation):
    options = {**RUN, "gradient_accumulation_steps": accumulation}
    stock = run(RewardTrainer, tmp_path / "a", **options)
    ours = run(SharedPrefixRewardTrainer, tmp_path / "b", **options)

    assert_same_history(ours, stock)
    for name, value in weights(stock).items():
        assert torch.allclose(weights(ours)[name], value, atol=1e-3), name


def test_resumed_run_gives_the_bits_of_an_uninterrupted_one(tmp_path):
    options = {**RUN, "save_strategy": "steps", "save_steps": 3}
    uninterrupted = run(SharedPrefixRewardTrainer, tmp_path / "a", **options)
    resumed = make_trainer(SharedPrefixRewardTrainer, tmp_path / "b", ROWS, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))

    assert_equal_bits(weights(resumed), weights(uninterrupted))
    last = "checkpoint-8/adapter_model.safetensors"
    assert_equal_bits(load_file(tmp_path / "a" / last), load_file(tmp_path / "b" / last))


def test_parity_check_does_not_change_the_run(tmp_path):
    plain = run(SharedPrefixRewardTrainer, tmp_path / "a", **RUN)
    checked = make_trainer(SharedPrefixRewardTrainer, tmp_path / "b", ROWS, **RUN)
    state = torch.get_rng_state()
    before = {n: p.clone() for n, p in checked.model.named_parameters()}

    assert check_parity(checked).has_parity
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal_bits(dict(checked.model.named_parameters()), before)
    assert all(p.grad is None for p in checked.model.parameters())
    checked.train()
    assert_equal_bits(weights(checked), weights(plain))
    assert history(checked) == history(plain)


@pytest.mark.parametrize("gradient_checkpointing", [True, False], ids=["recomputed", "kept"])
def test_small_memory_budget_changes_neither_loss_nor_gradients(tmp_path, gradient_checkpointing):
    whole = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    chunked = make_trainer(
        SharedPrefixRewardTrainer,
        tmp_path,
        ROWS,
        gradient_checkpointing=gradient_checkpointing,
        trainer_arguments={"memory_budget_bytes": 1},
    )
    loss, expected = gradients(whole, ROWS)
    chunked_loss, found = gradients(chunked, ROWS)

    assert chunked.memory_budget_bytes == 1 < whole.memory_budget_bytes
    assert chunked_loss == pytest.approx(loss, abs=1e-6)
    assert_close(found, expected)


def test_activations_are_recomputed_only_for_a_pair_over_the_budget(tmp_path):
    rows = make_rows([(2, 2, 2), (60, 30, 30), (2, 2, 2)])
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, rows)
    calls = []
    trainer.packed_model.layers[0].mlp.register_forward_pre_hook(
        lambda _m, args: calls.append(args[0].shape[1])
    )
    trainer.__dict__["activation_cost"] = ActivationCost(1.0, 0.0)
    trainer.memory_budget_bytes = trainer.recompute_above_bytes = 50
    gradients(trainer, rows)

    assert calls == [6, 120, 120, 6]  # the second 120 is in the backward


def test_activation_checkpointing_changes_no_bit(tmp_path):
    plain, recomputed = (
        make_trainer(
            SharedPrefixRewardTrainer,
            tmp_path / name,
            ROWS,
            trainer_arguments={"may_recompute": may, "recompute_above_bytes": 1},
            **RUN,
        )
        for name, may in (("plain", False), ("recomputed", True))
    )
    calls = []
    assert recomputed.activation_cost.per_token > 0  # measured here, in an additional forward
    recomputed.packed_model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    plain.train()
    recomputed.train()
    assert sum(calls) == 2 * RUN["max_steps"]  # in the forward and in the backward
    assert_equal_bits(weights(recomputed), weights(plain))


def test_frozen_weights_cast_once_give_the_same_bits(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS, bf16=True)
    loss, expected = gradients(trainer, ROWS[:4])
    with frozen_weights_cast(trainer.model, torch.bfloat16):
        weight = trainer.packed_model.layers[0].mlp.down_proj.weight
        assert weight.dtype == torch.bfloat16
        cast_loss, found = gradients(trainer, ROWS[:4])

    assert weight.dtype == torch.float32
    assert cast_loss == loss
    assert_equal_bits(found, expected)


def test_activations_are_measured_on_few_tokens(tmp_path):
    rows = make_rows([(300, 90, 90), (2, 2, 2)])
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, rows)
    lengths = []
    trainer.packed_model.layers[0].mlp.register_forward_pre_hook(
        lambda _m, args: lengths.append(args[0].shape[1])
    )
    cost = trainer.activation_cost
    assert lengths == [128, 256]
    # Three layers of width 32 keep between 2 and 40 KiB per token, and no attention scores.
    assert 2048 < cost.per_token < 40_960
    assert cost.per_token_pair < 1


def test_attention_that_stores_its_scores_costs_more_per_token_of_a_long_sequence(tmp_path):
    rows = make_rows([(300, 90, 90), (2, 2, 2)])
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, rows, model="gemma2")
    # At least the weights in float32: three layers, four heads.
    assert trainer.activation_cost.per_token_pair > 3 * 4 * 4 / 2


class MemoryLimit:
    """Raises when a layer is given more tokens than fit, as a GPU whose memory ran out."""

    def __init__(self, trainer, tokens, *, in_backward=False):
        self.seen = []
        layer = trainer.packed_model.layers[-2].mlp
        if in_backward:
            layer.register_full_backward_hook(lambda _m, grads, _o: self.check(grads[0], tokens))
        else:
            layer.register_forward_hook(lambda _m, args, _o: self.check(args[0], tokens))

    def check(self, tensor, tokens):
        self.seen.append(tensor.shape[1])
        if tensor.shape[1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
def test_step_that_ran_out_of_memory_is_repeated_in_smaller_passes(tmp_path, in_backward):
    plain, limited = (
        make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS, max_steps=2) for _ in range(2)
    )
    budgets = []
    limited.on_budget_lowered = budgets.append
    assert limited.activation_cost.per_token > 0
    limit = MemoryLimit(limited, 40, in_backward=in_backward)
    for trainer in (plain, limited):  # the second micro-step adds to the gradients of the first
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 2
    for rows in (ROWS[:4], ROWS[4:12]):
        losses = [float(t.training_step(t.model, t.data_collator(rows))) for t in (plain, limited)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    found, expected = (
        {n: p.grad for n, p in t.model.named_parameters() if p.grad is not None}
        for t in (limited, plain)
    )
    assert_close(found, expected)
    assert max(limit.seen) > 40
    assert max(limit.seen[-2:]) <= 40
    assert budgets
    assert budgets == sorted(budgets, reverse=True)
    assert limited.memory_budget_bytes == budgets[-1]
    assert len(limited._metrics["train"]["margin"]) == 2


def test_pair_that_does_not_fit_alone_ends_the_run(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    assert trainer.activation_cost.per_token > 0
    MemoryLimit(trainer, 3)
    with pytest.raises(torch.OutOfMemoryError):
        gradients(trainer, ROWS)
    pairs = trainer.forward_pass.split(trainer.data_collator(ROWS))
    assert trainer._is_recomputed([max(pairs, key=trainer.activation_cost.of)])


def test_parity_check_does_not_take_a_lack_of_memory_for_a_difference(tmp_path):
    rows = make_rows([(300, 90, 90), (2, 2, 2)])
    short = make_trainer(SharedPrefixRewardTrainer, tmp_path, rows)
    MemoryLimit(short, 300)
    assert check_parity(short).has_parity  # with pairs that are cut
    none = make_trainer(SharedPrefixRewardTrainer, tmp_path, rows)
    MemoryLimit(none, 1)
    with pytest.raises(torch.OutOfMemoryError):
        check_parity(none)


def test_packed_scores_equal_padded_ones(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    assert check_parity(trainer).is_as_exact_as_padding
    groups = [[r["chosen_ids"], r["rejected_ids"]] for r in ROWS] + [[[5, 6], [5, 6, 7], [5, 8]]]
    padded = score(trainer.model, [ids for group in groups for ids in group], pad_token_id=0)
    assert trainer.score_groups(groups) == pytest.approx(padded, abs=1e-5)


@pytest.mark.parametrize(
    ("difference", "noise", "expected"),
    [(3e-6, 0.0, True), (0.01, 0.003, True), (0.01, 0.002, False), (0.01, 0.0, False)],
)
def test_evaluation_is_packed_if_that_changes_little_more_than_padding(difference, noise, expected):
    result = ParityResult(has_parity=True, difference=difference, noise=noise)
    assert result.is_as_exact_as_padding is expected


def test_bf16_run_stays_near_stock_and_restores_the_weights(tmp_path):
    options = {**RUN, "bf16": True}
    stock = run(RewardTrainer, tmp_path / "a", **options)
    ours = run(SharedPrefixRewardTrainer, tmp_path / "b", **options)

    losses, expected = ([e["loss"] for e in history(t) if "loss" in e] for t in (ours, stock))
    assert losses == pytest.approx(expected, abs=0.1)
    loaded = dict(make_model("llama").named_parameters())
    frozen = "model.layers.0.mlp.down_proj.weight"
    live = dict(ours.model.get_base_model().named_parameters())[frozen]
    assert torch.equal(live, loaded[frozen])


def test_full_fine_tuning_without_adapters_equals_stock(tmp_path):
    stock, ours = (
        make_trainer(c, tmp_path, ROWS, trainer_arguments={"peft_config": None})
        for c in (RewardTrainer, SharedPrefixRewardTrainer)
    )
    loss, expected = gradients(stock, ROWS[:4])
    our_loss, found = gradients(ours, ROWS[:4])

    assert our_loss == pytest.approx(loss, abs=1e-6)
    assert_close(found, expected)
