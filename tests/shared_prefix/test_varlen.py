"""The layout of the one variable-length call that a GPU takes, with torch's kernel spelled out."""

import sys

import pytest
import torch
from trl import RewardTrainer

from tests.shared_prefix.test_parity import CASES, assert_same
from tests.shared_prefix.tiny import make_rows, make_trainer
from worker.reward_model import packed_attention
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer, probe

CALLS: list[int] = []


def spelled_out(
    query, key, value, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa
):
    """What torch.nn.attention.varlen documents: causal, windowed, aligned at the bottom right."""
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert (ends_q[-1], ends_k[-1]) == (len(query), len(key))
    CALLS.append(len(ends_q) - 1)
    query, key, value = query.double(), key.double(), value.double()  # adds no rounding of its own
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    left, right = window_size
    assert right == 0
    outputs = []
    for i in range(len(ends_q) - 1):
        q = query[ends_q[i] : ends_q[i + 1]].transpose(0, 1)
        k, v = (
            x[ends_k[i] : ends_k[i + 1]].transpose(0, 1).repeat_interleave(groups, 0)
            for x in (key, value)
        )
        assert 0 < q.shape[1] <= longest_q
        assert 0 < k.shape[1] <= longest_k
        offset = k.shape[1] - q.shape[1]
        distance = torch.arange(q.shape[1])[:, None] + offset - torch.arange(k.shape[1])
        hidden = (distance < 0) | ((distance > left) if left >= 0 else False)
        scores = (q @ k.transpose(1, 2)) * (scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs).float()


@pytest.fixture(params=["llama", "qwen3", "mistral", "gemma", "phi3"])
def trainers(request, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_attention, "has_varlen", lambda _query: True)
    monkeypatch.setattr(packed_attention.varlen, "varlen_attn", spelled_out)
    rows = make_rows(CASES["uneven lengths"])
    stock, ours = (
        make_trainer(trainer_class, tmp_path, rows, family=request.param)
        for trainer_class in (RewardTrainer, SharedPrefixRewardTrainer)
    )
    assert ours.bytes_per_token > 0  # measured once, with a forward of its own
    return stock, ours


def test_one_call_a_layer_gives_the_gradients_of_stock(trainers):
    for case, lengths in CASES.items():
        CALLS.clear()
        # Rounds elsewhere than the kernels that both others share.
        assert_same(*trainers, make_rows(lengths, seed=1), is_any=True)
        assert len(CALLS) == 3, case  # one of them for the last layer's rewards
        assert CALLS[-1] == 2 * len(lengths)


def test_probe_falls_back_to_a_call_a_segment(trainers, monkeypatch):
    ours = trainers[1]
    assert probe(ours).ok
    assert ours.reward_model.takes_varlen
    assert CALLS

    def leaks(query, key, value, *_rest, **_more):
        return value.mean(0, keepdim=True).repeat(len(query), query.shape[1] // key.shape[1], 1)

    monkeypatch.setattr(packed_attention.varlen, "varlen_attn", leaks)
    module = sys.modules[probe.__module__]  # the package gives the function its module's name
    monkeypatch.setattr(module, "has_accelerator", lambda _trainer: True)
    assert probe(ours).ok
    assert not ours.reward_model.takes_varlen
    assert ours.reward_model.trims_last_layer
