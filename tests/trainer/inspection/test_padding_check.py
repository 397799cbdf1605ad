"""Padding and other texts of a batch must not change a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
)

from tests.model_factories.architectures import (
    PAD,
    make_base_model,
    tiny_config,
)
from tests.model_factories.orders import facts_of
from worker.reward_model.scoring import score
from worker.trainer.inspection.padding_check import TOLERANCE, padding_shift

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
}


def test_padding_check_finds_architectures_that_mix_padding_in():
    exact = [padding_shift(tiny_config(n)) for n in ("bert", "llama", "gpt2", "mixtral", "bloom")]
    mixed = [padding_shift(tiny_config(name)) for name in ("xlnet", "fnet", "funnel")]
    assert max(exact) < TOLERANCE / 10
    assert min(mixed) > TOLERANCE * 5


def test_padding_check_restores_the_random_state():
    state = torch.random.get_rng_state()
    padding_shift(BertConfig())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "sizes", "limit"),
    [
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}, 64),
        ("big_bird", {"block_size": 4, "num_random_blocks": 1}, 28),
    ],
)
def test_score_does_not_depend_on_other_texts_up_to_the_limit(
    tmp_path: Path, name: str, sizes: dict[str, Any], limit: int
):
    make_base_model(tmp_path, name, **sizes)
    assert facts_of(tmp_path).max_positions == limit
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    head = model.get_submodule(facts_of(tmp_path).new_modules[0])
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    short, fits, longer = (list(range(10, 10 + n)) for n in (limit // 2, limit, limit + 1))

    def scores(*texts: list[int]) -> list[float]:
        return score(model, texts, pad_token_id=PAD)

    def are_equal(*found: float) -> bool:
        return max(found) - min(found) < 1e-5 * (1 + max(map(abs, found)))

    # Longrope changes a whole batch with a longer text. BigBird changes for good at its first
    # shorter one.
    before, (alone,) = scores(longer), scores(short)
    assert not are_equal(*before, *scores(longer)) or not are_equal(alone, scores(short, longer)[0])
    assert are_equal(alone, *scores(short), scores(short, fits)[0])
    assert are_equal(*scores(fits), scores(fits, short)[0])
