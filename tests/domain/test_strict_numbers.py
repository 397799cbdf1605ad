"""Booleans are not numbers in any spec."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from app.domain.evaluation import EvaluationSpec
from app.domain.spec import EvalFraction, LoraSpec, Resources, RewardJobSpec
from app.domain.training_spec import EarlyStopping, TrainingSpec

NUMBERS: dict[type[BaseModel], str] = {
    EarlyStopping: "patience min_delta",
    EvalFraction: "fraction seed",
    EvaluationSpec: "probe_pairs seed",
    LoraSpec: "r alpha dropout",
    Resources: "gpus max_runtime_seconds",
    RewardJobSpec: "priority",
    TrainingSpec: "epochs max_steps learning_rate lr_cycles warmup_ratio warmup_steps weight_decay "
    "max_grad_norm batch_size per_device_batch_size max_length pairs_per_prompt "
    "center_rewards_coefficient eval_steps checkpoint_steps logging_steps seed",
}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("model", "field"),
    [(model, name) for model, names in NUMBERS.items() for name in names.split()],
)
def test_boolean_is_refused_as_a_number(model: Any, field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({field: value})
    errors = [error["type"] for error in caught.value.errors() if error["loc"] == (field,)]
    assert errors in (["int_type"], ["float_type"])


def test_booleans_stay_booleans() -> None:
    assert LoraSpec(use_dora=True).use_dora
    assert TrainingSpec(gradient_checkpointing=False).gradient_checkpointing is False
