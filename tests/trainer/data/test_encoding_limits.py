"""A tokenizer that needs too much memory gives a failure of the base model."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError
from worker.trainer.data.row_encoder import BYTES_PER_CHARACTER, ENCODING_BYTES, _encode_texts


class Hungry:
    """Reads its limits, and exceeds them."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.seen = (
            resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
        )  # fmt: skip
        bytearray(2 * ENCODING_BYTES + BYTES_PER_CHARACTER * sum(map(len, texts)))
        return []


def test_tokenizer_that_needs_too_much_memory_is_refused() -> None:
    limits = (resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU))
    tokenizer: Any = Hungry()
    with pytest.raises(TrainerError) as error:
        _encode_texts(tokenizer, ["some text"])
    assert error.value.code is FailureCode.MODEL_UNSUPPORTED
    assert tokenizer.seen[0][0] != limits[0][0]
    assert tokenizer.seen[1][0] != limits[1][0]
    after = (resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU))
    assert after == limits
