"""The reason why an inspection rejects a base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.lifecycle import FailureCode
from tests.model_factories.orders import facts_of
from worker.reward_model.errors import TrainerError


def refusal(directory: Path) -> str:
    """Return the detail with which the model in ``directory`` is rejected."""
    with pytest.raises(TrainerError) as failure:
        facts_of(directory)
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    return failure.value.detail
