"""An adapter that differs from the plan is refused, in the model and in the saved file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from app.domain.plan import TrainingPlan
from tests.model_factories.architectures import make_base_model
from tests.model_factories.orders import facts_of, make_text_plan
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.training.adapter_check import check_saved_tensors, check_trainable_parameters
from worker.trainer.training.lora import add_lora

# transformers is renaming gradient checkpointing; PEFT still uses the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def adapted(directory: Path, **lora: Any) -> tuple[PeftModel, TrainingPlan]:
    plan = make_text_plan(facts_of(directory), lora={"r": 3, **lora}, resources={"gpus": 0})
    base = load_base(str(directory), DeviceConfig("cpu", bf16=False), plan.head_modules)
    return add_lora(base, plan), plan


@pytest.mark.parametrize("name", ["bert", "llama", "mixtral", "distilbert"])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["plain", "dora"])
def test_plan_counts_the_trainable_parameters_of_the_real_model(
    tmp_path: Path, name: str, lora: dict[str, Any]
):
    model, plan = adapted(make_base_model(tmp_path, name), **lora)
    check_trainable_parameters(model, plan)
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == plan.trainable_parameters
    assert total - trainable == plan.total_parameters


def test_model_that_trains_other_parameters_is_refused(tmp_path: Path):
    model, plan = adapted(make_base_model(tmp_path, "bert"))
    for parameter in model.base_model.model.bert.pooler.dense.parameters():
        parameter.requires_grad_(requires_grad=False)
    model.base_model.model.bert.embeddings.word_embeddings.weight.requires_grad_(requires_grad=True)
    with pytest.raises(TrainerError) as failure:
        check_trainable_parameters(model, plan)
    assert "part of the head, but frozen: bert.pooler.dense" in failure.value.detail
    assert "trainable, but not in the plan: " in failure.value.detail


def test_saved_file_that_lacks_a_trained_tensor_is_refused(tmp_path: Path):
    model, _ = adapted(make_base_model(tmp_path, "llama"))
    targets = model.base_model.targeted_module_names
    keys = [f"base_model.model.{path}.lora_{x}.weight" for path in targets for x in "AB"]
    check_saved_tensors([*keys, "base_model.model.score.weight"], model)
    with pytest.raises(TrainerError, match="lacks 1 trained tensors"):
        check_saved_tensors(keys, model)
