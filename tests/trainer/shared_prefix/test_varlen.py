"""The variable-length attention call of a GPU, with tensor code in place of torch's kernel."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from trl import RewardTrainer

from tests.model_factories.reward_trainers import make_rows, make_trainer
from tests.trainer.shared_prefix.test_parity import CASES, assert_same_step
from worker.reward_model import packed_attention
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer, check_parity, parity_check


def plain_varlen_attention(query, key, value, *lengths, scale, window_size, enable_gqa):
    """Compute what torch.nn.attention.varlen documents: causal, windowed, bottom-right aligned."""
    ends_q, ends_k, longest_q, longest_k = lengths
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert (ends_q[-1], ends_k[-1]) == (len(query), len(key))
    query, key, value = query.double(), key.double(), value.double()  # without rounding errors
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


@pytest.fixture
def segment_counts(monkeypatch):
    """Replace the kernel; the list receives the number of segments of each call."""
    counts = []

    def attend(query, key, value, ends_q, *lengths, **options):
        counts.append(len(ends_q) - 1)
        return plain_varlen_attention(query, key, value, ends_q, *lengths, **options)

    monkeypatch.setattr(packed_attention, "has_varlen", lambda _query: True)
    monkeypatch.setattr(packed_attention.varlen, "varlen_attn", attend)
    return counts


@pytest.fixture(params=["llama", "qwen3", "mistral", "gemma", "phi3"])
def trainers(request, tmp_path, segment_counts):
    rows = make_rows(CASES["uneven lengths"])
    stock, ours = (
        make_trainer(trainer_class, tmp_path, rows, model=request.param)
        for trainer_class in (RewardTrainer, SharedPrefixRewardTrainer)
    )
    assert ours.activation_cost.per_token > 0  # measured here, in an additional forward
    segment_counts.clear()
    return stock, ours


@pytest.mark.parametrize("case", CASES)
def test_one_call_per_layer_gives_the_gradients_of_stock(trainers, segment_counts, case):
    # The tolerance of drawn patterns: this code rounds at other places than torch's kernels.
    assert_same_step(*trainers, make_rows(CASES[case], seed=1), is_drawn=True)
    assert len(segment_counts) == 3  # one of them for the last layer's rewards
    assert segment_counts[-1] == 2 * len(CASES[case])


def test_repeated_heads_give_the_gradients_of_stock(tmp_path, monkeypatch):
    """On CUDA no fused kernel takes grouped heads with a mask, in float32 or of more than 256."""
    kernels = []

    def attend(query, key, *rest, enable_gqa=False, **options):
        kernels.append(enable_gqa)
        return torch.nn.functional.scaled_dot_product_attention(query, key, *rest, **options)

    rows = make_rows(CASES["uneven lengths"])
    stock, ours = (
        make_trainer(c, tmp_path, rows) for c in (RewardTrainer, SharedPrefixRewardTrainer)
    )
    monkeypatch.setattr(packed_attention, "has_grouped_kernel", lambda _query, is_masked: False)
    monkeypatch.setattr(packed_attention, "scaled_dot_product_attention", attend)
    assert_same_step(stock, ours, rows, is_drawn=True)
    assert kernels
    assert not any(kernels)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "is_masked", "expected"),
    [
        (torch.bfloat16, 128, False, True),
        (torch.bfloat16, 128, True, False),
        (torch.bfloat16, 512, False, False),
        (torch.float32, 128, False, False),
    ],
)
def test_heads_are_repeated_where_cuda_has_no_kernel(dtype, head_dim, is_masked, expected):
    with FakeTensorMode():
        query = torch.empty(1, 4, 3, head_dim, dtype=dtype, device="cuda")
    assert packed_attention.has_grouped_kernel(query, is_masked=is_masked) is expected


def test_parity_check_falls_back_to_one_call_per_segment(trainers, segment_counts, monkeypatch):
    ours = trainers[1]
    assert check_parity(ours).has_parity
    assert ours.packed_model.uses_varlen
    assert segment_counts

    def leak(query, key, value, *_rest, **_more):
        return value.mean(0, keepdim=True).repeat(len(query), query.shape[1] // key.shape[1], 1)

    monkeypatch.setattr(packed_attention.varlen, "varlen_attn", leak)
    monkeypatch.setattr(parity_check, "may_have_varlen", lambda _trainer: True)
    assert check_parity(ours).has_parity
    assert not ours.packed_model.uses_varlen
    assert ours.packed_model.trims_last_layer
