"""Batches of scores are bounded by their tokens and shrink when memory runs out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.model_factories.reward_trainers import make_model
from worker.reward_model.errors import CPU_OUT_OF_MEMORY
from worker.reward_model.scoring import ALONE, score

IDS = [[5] * length for length in (3, 40, 7, 7, 1, 12, 90, 8)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_model("llama")


@pytest.fixture
def batches(model: nn.Module):
    """Shapes of the batches that the model was given."""
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def test_batches_hold_sequences_of_similar_length_up_to_a_number_of_tokens(model, batches):
    rewards = score(model, IDS, pad_token_id=0, batch_tokens=48)
    assert batches == [(5, 8), (1, 12), (1, 40), (1, 90)]
    assert rewards == pytest.approx(score(model, IDS, pad_token_id=0, batch_tokens=ALONE), abs=1e-5)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(f"[{CPU_OUT_OF_MEMORY}: you…")],
    ids=["cuda", "cpu"],
)
def test_batches_are_halved_when_memory_runs_out(model, batches, error):
    def limit(_model, _args, kwargs):
        if kwargs["input_ids"].numel() > 100:
            raise error

    expected = score(model, IDS, pad_token_id=0)
    batches.clear()
    hook = model.register_forward_pre_hook(limit, with_kwargs=True)
    try:
        rewards = score(model, IDS, pad_token_id=0)
        with pytest.raises(type(error)):
            score(model, [[5] * 101], pad_token_id=0)
    finally:
        hook.remove()
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert [b for b in batches[:-1] if b[0] * b[1] <= 100] == [(6, 12), (1, 40), (1, 90)]


def test_other_errors_are_not_retried(model, batches):
    def fail(*_):
        raise ValueError("no such token")

    hook = model.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="no such token"):
        score(model, IDS, pad_token_id=0)
    hook.remove()
    assert len(batches) == 1
