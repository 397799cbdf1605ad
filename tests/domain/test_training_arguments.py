"""Typed access to the arguments that a plan stores as JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import TrainingPlan
from app.domain.training_spec import TrainingSpec
from tests.domain.base_model_facts import TEXT, dataset, decoder, job


def plan_of(**spec: object) -> TrainingPlan:
    return compile_plan(job(**spec), "hub", decoder(), JobData(dataset(), None, TEXT))


def test_lora_arguments_are_those_of_the_plan():
    plan = plan_of(lora={"r": 4, "dropout": 0.1, "use_dora": True, "target_modules": ["q_proj"]})
    lora = plan.lora_arguments
    assert (lora.r, lora.lora_dropout, lora.use_dora) == (4, 0.1, True)
    assert (lora.target_modules, lora.modules_to_save) == (("q_proj",), ("score",))


def test_reward_arguments_are_those_of_the_plan():
    training = {"batch_size": 12, "per_device_batch_size": 4, "max_steps": 7, "seed": 3}
    reward = plan_of(training=training).reward_arguments
    assert (reward.per_device_train_batch_size, reward.gradient_accumulation_steps) == (4, 3)
    assert reward.pairs_per_step == 12
    assert (reward.max_steps, reward.seed, reward.eval_steps) == (7, 3, None)


def test_early_stopping_arguments_are_absent_without_early_stopping():
    assert plan_of().early_stopping_arguments is None
    stopping = plan_of(
        eval_dataset={"fraction": 0.1},
        training={"early_stopping": {"patience": 2, "min_delta": 0.5}, "eval_steps": 5},
    ).early_stopping_arguments
    assert stopping is not None
    assert (stopping.patience, stopping.min_delta) == (2, 0.5)


def test_reading_typed_arguments_leaves_the_stored_plan_as_it_is():
    plan = plan_of()
    before = plan.model_dump_json()
    assert plan.lora_arguments
    assert plan.reward_arguments
    assert plan.model_dump_json() == before


@pytest.mark.parametrize("field", ["eval_steps", "checkpoint_steps"])
def test_steps_between_events_are_bounded_as_all_steps_are(field: str) -> None:
    assert TrainingSpec.model_validate({field: 10_000_000})
    with pytest.raises(ValidationError, match="less than or equal to 10000000"):
        TrainingSpec.model_validate({field: 10**25})
