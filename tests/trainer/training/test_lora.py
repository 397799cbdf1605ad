"""LoRA around a base model: its arguments, its dropout and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import ModelConfig, RewardTrainer, get_peft_config

from app.domain.plan import TrainingPlan
from tests.model_factories.architectures import make_base_model
from tests.model_factories.orders import facts_of, make_text_plan
from worker.reward_model.loading import DeviceConfig, load_base
from worker.reward_model.pair_tokenizer import load_tokenizer
from worker.trainer.training.lora import add_lora
from worker.trainer.training.reward_trainer import reward_config

# transformers is renaming gradient checkpointing; PEFT and TRL still use the old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),  # PEFT corrects it for GPT-2
]

CPU = DeviceConfig(device="cpu", bf16=False)
IDS = [[1, 20, 30, 40, 50], [1, 20, 31, 41], [1, 60, 70, 80, 90, 100, 110], [1, 61]]


def plan_of(directory: Path, **spec: Any) -> TrainingPlan:
    given = {"lora": {"r": 2}, "resources": {"gpus": 0}, **spec}
    return make_text_plan(facts_of(directory), **given)


@pytest.mark.parametrize("name", ["llama", "bert", "mixtral"])
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 2, "alpha": 8, "dropout": 0.1, "use_rslora": True},
        {"r": 4, "use_dora": True},
    ],
)
def test_lora_arguments_are_those_of_the_helper_of_trl(
    tmp_path: Path, name: str, lora: dict[str, Any]
):
    arguments = plan_of(make_base_model(tmp_path, name), lora=lora).lora_kwargs()
    theirs = get_peft_config(
        ModelConfig(
            use_peft=True,
            lora_task_type="SEQ_CLS",
            lora_r=lora["r"],
            lora_alpha=lora.get("alpha", 32),
            lora_dropout=lora.get("dropout", 0.0),
            use_rslora=lora.get("use_rslora", False),
            use_dora=lora.get("use_dora", False),
            lora_target_modules=list(arguments["target_modules"]),
            lora_modules_to_save=list(arguments["modules_to_save"]),
        )
    )
    assert LoraConfig(**arguments).to_dict() == theirs.to_dict()


@pytest.mark.parametrize("name", ["gpt2", "bert", "starcoder2", "falcon"])
def test_only_the_dropout_of_lora_is_active(tmp_path: Path, name: str):
    plan = plan_of(
        make_base_model(tmp_path, name, attention_dropout=0.2, hidden_dropout=0.2),
        lora={"dropout": 1e-6},
    )
    model = add_lora(load_base(str(tmp_path), CPU, plan.head_modules), plan).train()
    ids = torch.tensor([IDS[0]])
    with torch.no_grad():
        assert len({model(input_ids=ids).logits.item() for _ in range(5)}) == 1
    lora = [m for n, m in model.named_modules() if "lora_dropout" in n]
    assert {m.p for m in lora if isinstance(m, torch.nn.Dropout)} == {1e-6}


@pytest.mark.parametrize("name", ["llama", "bert", "mixtral"])
def test_every_trainable_parameter_has_a_gradient_with_activation_checkpointing(
    tmp_path: Path, name: str
):
    plan = plan_of(
        make_base_model(tmp_path, name),
        training={"gradient_checkpointing": True, "batch_size": 2, "max_steps": 1},
    )
    model = add_lora(load_base(str(tmp_path), CPU, plan.head_modules), plan)
    with torch.no_grad():  # LoRA's B starts at 0, which makes the gradient of A 0
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
    arguments = reward_config(plan, CPU, model)
    assert arguments.gradient_checkpointing
    arguments.output_dir = str(tmp_path / "out")
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"chosen_ids": IDS[::2], "rejected_ids": IDS[1::2]}),
        processing_class=load_tokenizer(tmp_path, plan.tokenization),
    )
    embedded = model.get_input_embeddings()(torch.tensor([[1, 2]]))
    assert embedded.requires_grad  # TRL has called enable_input_require_grads
    model.train()
    model.gradient_checkpointing_enable()
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model, batch).backward()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    without = {n for n, p in trainable.items() if p.grad is None or not p.grad.any()}
    # The last bias of an encoder's head cancels out of the loss.
    assert not {n for n in without if not n.endswith("classifier.modules_to_save.default.bias")}
