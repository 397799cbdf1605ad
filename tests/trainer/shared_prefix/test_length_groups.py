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
from worker.trainer.shared_prefix import (
    SharedPrefixRewardTrainer,
    check_disentangled,
    disentangled,
    disentangled_function,
)
from worker.trainer.shared_prefix.forwards import group_by_length

ROWS = make_rows([(10, 5, 9), (3, 20, 2), (60, 12, 17), (1, 1, 1), (8, 0, 5)], has_margin=True)
ENCODER = {
    "classifier_dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DEBERTA = {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
MODELS = {
    "bert": (ENCODER, ["query", "value", "dense"]),
    "deberta-v2": (ENCODER, ["query_proj", "value_proj"]),
    # As in DeBERTa-v3: distances share buckets, and positions the projections of the content.
    "deberta-v2 v3": (
        {
            **DEBERTA,
            "position_buckets": 16,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
        ["query_proj", "key_proj", "value_proj", "dense"],
    ),
    # With a convolution, and projections of positions, one of which is trained.
    "deberta-v2 conv": (
        {**DEBERTA, "conv_kernel_size": 3, "max_relative_positions": 24},
        ["query_proj", "pos_key_proj"],
    ),
    "deberta-v2 pooler": (DEBERTA, ["pooler.dense"]),
    "deberta": ({**DEBERTA, "max_relative_positions": 40}, ["in_proj", "pos_q_proj"]),
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
                model=make_model(name.split()[0], **changes),
                trainer_arguments={"peft_config": config},
                center_rewards_coefficient=0.01,
            )
        )
    found[1].use_length_groups()
    check_disentangled(found[1])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_loss_gradients_and_metrics_equal_those_of_stock(tmp_path, name):
    stock, ours = trainers(name, tmp_path)
    assert (ours.disentangled is not None) == ("relative_attention" in MODELS[name][0])
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


def test_disentangled_attention_computes_each_position_once_and_no_padding(tmp_path, monkeypatch):
    ours = trainers("deberta-v2 v3", tmp_path)[1]
    found = {"positions": 0, "queries": []}
    positions, places = disentangled._positions_v2, disentangled_function._places

    def counted_positions(*args):
        found["positions"] += 1
        return positions(*args)

    def counted_places(part, queries, keys, *args):
        found["queries"].append((queries, keys))
        return places(part, queries, keys, *args)

    monkeypatch.setattr(disentangled, "_positions_v2", counted_positions)
    monkeypatch.setattr(disentangled_function, "_places", counted_places)
    assert ours.activation_cost.per_token > 0
    found |= {"positions": 0, "queries": []}
    gradients(ours, ROWS)
    assert found["positions"] == 3  # layers
    lengths = [len(row[side]) for row in ROWS for side in ("chosen_ids", "rejected_ids")]
    whole = [(n, n) for n in lengths for _ in range(2 * 4 * 2)]  # layers, heads, both passes
    first = [(1, n) for n in lengths for _ in range(4 * 2)]  # the last layer
    assert sorted(found["queries"]) == sorted(whole + first)


def test_disentangled_attention_that_differs_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(
        disentangled, "_positions_v2", lambda module, rows: (module.key_proj(rows),) * 2
    )
    assert trainers("deberta-v2 v3", tmp_path)[1].disentangled is None


def test_disentangled_attention_with_wrong_gradients_is_not_used(tmp_path, monkeypatch):
    backward = disentangled_function.DisentangledAttention.backward

    def wrong(ctx, *grads):
        query, *others = backward(ctx, *grads)
        return 1.1 * query, *others

    monkeypatch.setattr(disentangled_function.DisentangledAttention, "backward", wrong)
    assert trainers("deberta-v2 v3", tmp_path)[1].disentangled is None


def test_disentangled_attention_that_fails_is_not_used(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ValueError("no such layer")

    monkeypatch.setattr(disentangled, "_positions_v2", fail)
    assert trainers("deberta-v2 v3", tmp_path)[1].disentangled is None
    assert "no such layer" in caplog.text


def test_disentangled_attention_is_not_used_with_dropout(tmp_path):
    ours = trainers("deberta-v2 v3", tmp_path)[1]
    ours.disentangled = None
    next(m for m in ours.model.modules() if isinstance(m, torch.nn.Dropout)).p = 0.1
    check_disentangled(ours)
    assert ours.disentangled is None


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
