"""Models that cannot use packed rows train on groups of similar length, with the loss of stock."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from trl import RewardTrainer

from tests.model_factories.reward_trainers import (
    assert_close,
    gradients,
    make_model,
    make_rows,
    make_trainer,
)
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer
from worker.trainer.shared_prefix.forwards import group_by_length

ROWS = make_rows([(10, 5, 9), (3, 20, 2), (60, 12, 17), (1, 1, 1), (8, 0, 5)], has_margin=True)
ENCODER = {
    "classifier_dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODELS = {
    "bert": (ENCODER, ["query", "value", "dense"]),
    "deberta-v2": (ENCODER, ["query_proj", "value_proj"]),
    # A recurrent decoder, and one whose rotary positions depend on the length of a row.
    "bloom": ({"n_head": 4, "n_layer": 2}, ["query_key_value"]),
}


def trainers(name, folder):
    changes, targets = MODELS[name]
    found = []
    for trainer_class in (RewardTrainer, SharedPrefixRewardTrainer):
        config = LoraConfig(
            task_type="SEQ_CLS", r=4, init_lora_weights=False, target_modules=targets
        )
        torch.manual_seed(1)
        found.append(
            make_trainer(
                trainer_class,
                folder,
                ROWS,
                model=make_model(name, **changes),
                trainer_arguments={"peft_config": config},
                center_rewards_coefficient=0.01,
            )
        )
    found[1].use_length_groups()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_loss_gradients_and_metrics_equal_those_of_stock(tmp_path, name):
    stock, ours = trainers(name, tmp_path)
    tokens = []
    ours.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    assert ours.activation_cost.per_token > 0
    tokens.clear()
    loss, expected = gradients(stock, ROWS)
    our_loss, found = gradients(ours, ROWS)

    assert our_loss == pytest.approx(loss, abs=2e-6)
    assert_close(found, expected, relative_to_largest=True)
    for metric, values in stock._metrics["train"].items():
        assert ours._metrics["train"][metric] == pytest.approx(values, abs=1e-5), metric
    assert len(tokens) > 1
    assert sum(tokens) < 0.5 * 10 * 77  # stock pads ten sequences to the longest

    ours.memory_budget_bytes = ours.recompute_above_bytes = 1
    chunked_loss, chunked = gradients(ours, ROWS)
    assert chunked_loss == pytest.approx(loss, abs=2e-6)
    assert_close(chunked, expected, relative_to_largest=True)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    pass_tokens=st.integers(0, 60),
)
def test_groups_have_the_least_cost(lengths, pass_tokens):
    def cost(groups):
        return sum(len(g) * max(lengths[i] for i in g) + pass_tokens for g in groups)

    groups = group_by_length(lengths, pass_tokens)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    ordered = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cuts = itertools.chain.from_iterable(
        itertools.combinations(range(1, len(lengths)), n) for n in range(len(lengths))
    )
    every = ([ordered[a:b] for a, b in itertools.pairwise((0, *c, len(lengths)))] for c in cuts)
    assert cost(groups) == min(map(cost, every))
