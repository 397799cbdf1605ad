"""A dozen architectures from base checkpoint to reloaded adapter, and what a plan is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, set_seed
from trl import ModelConfig, RewardTrainer, get_peft_config

from app.domain.compiler import compile_plan
from app.domain.plan import TrainingPlan
from bench.architectures import round_trip
from tests.architectures import make_checkpoint, make_classifier
from tests.domain.base_model_facts import dataset, job
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import DeviceConfig, load_base, wrap
from worker.reward_model.scoring import score
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.training.adapter_check import check_saved, check_wrapped
from worker.trainer.training.run import reward_config

# transformers renames gradient checkpointing; PEFT and TRL still say the old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),  # PEFT sees to it for GPT-2
]

CPU = DeviceConfig(device="cpu", bf16=False)
IDS = [[1, 20, 30, 40, 50], [1, 20, 31, 41], [1, 60, 70, 80, 90, 100, 110], [1, 61]]


def plan_of(directory: Path, **spec: Any) -> TrainingPlan:
    facts = inspect(directory, revision=None, chat_template=None, digest="0" * 64)
    given = {"lora": {"r": 2}, "resources": {"gpus": 0}, **spec}
    return compile_plan(job(**given), "hub", facts, dataset(), None, "text")


@pytest.mark.train
@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "deberta-v2",
        "albert",
        "distilbert",
        "modernbert",
        "roberta",
        "llama",
        "qwen3",
        "gemma2",
        "gpt2",
        "mixtral",
    ],
)
def test_reloaded_adapter_scores_the_same(tmp_path: Path, name: str):
    found = round_trip(make_checkpoint(tmp_path / "base", name), tmp_path, steps=2)
    assert found.difference == 0
    assert found.saved == found.trained
    # The last bias of an encoder's head is the same in both rewards, so the loss has none of it.
    assert found.moved >= found.trained - 1
    assert found.padding < 1e-6


@pytest.mark.train
@pytest.mark.parametrize("name", ["bert", "flaubert"])
def test_one_label_classifier_keeps_its_new_head(tmp_path: Path, name: str):
    found = round_trip(make_classifier(tmp_path / "base", name, 1), tmp_path, steps=2)
    assert (found.difference, found.saved) == (0, found.trained)


@pytest.mark.train
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 2, "use_dora": True},
        {"r": 4, "use_rslora": True, "init": "orthogonal"},
        {"r": 2, "dropout": 0.5, "init": "gaussian"},
        {"r": 2, "target_modules": ["query", "layer.1.output.dense"]},
        {"r": 2, "modules_to_save": ["bert.pooler", "layer.0.output.LayerNorm"]},
    ],
    ids=["dora", "rslora-orthogonal", "dropout-gaussian", "list", "more-saved"],
)
def test_options_of_lora_survive_a_reload(tmp_path: Path, lora: dict[str, Any]):
    found = round_trip(make_checkpoint(tmp_path / "base", "bert"), tmp_path, spec={"lora": lora})
    assert (found.difference, found.saved) == (0, found.trained)


def test_pooler_left_out_of_the_adapter_would_change_the_scores(tmp_path: Path):
    """The control: what PEFT does by itself, so that a difference of 0 means something."""
    checkpoint = make_checkpoint(tmp_path, "bert")

    def scores(seed: int, adapter: Path | None) -> list[float]:
        set_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
        if adapter is not None:
            return score(
                PeftModel.from_pretrained(base, adapter), IDS, pad_token_id=0, batch_size=4
            )
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
        model.save_pretrained(tmp_path / "adapter")
        return score(model, IDS, pad_token_id=0, batch_size=4)

    ours, theirs = scores(1, None), scores(2, tmp_path / "adapter")
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["bert", "llama", "mixtral", "distilbert"])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["plain", "dora"])
def test_plan_counts_the_trainable_parameters_of_the_real_model(
    tmp_path: Path, name: str, lora: dict[str, Any]
):
    plan = plan_of(make_checkpoint(tmp_path, name), lora={"r": 3, **lora})
    model = wrap(load_base(str(tmp_path), CPU, plan.head_modules), plan)
    check_wrapped(model, plan)
    trained, total = model.get_nb_trainable_parameters()
    assert trained == plan.trainable_parameters
    assert total - trained == plan.total_parameters


def test_wrapped_model_that_trains_something_else_is_refused(tmp_path: Path):
    plan = plan_of(make_checkpoint(tmp_path, "bert"))
    model = wrap(load_base(str(tmp_path), CPU, plan.head_modules), plan)
    pooler = model.base_model.model.bert.pooler.dense
    for parameter in pooler.parameters():
        parameter.requires_grad_(False)
    model.base_model.model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(TrainerError) as failure:
        check_wrapped(model, plan)
    assert "part of the head, and frozen: bert.pooler.dense" in failure.value.detail
    assert "trained although nobody asked" in failure.value.detail


def test_saved_file_without_a_trained_tensor_is_refused(tmp_path: Path):
    plan = plan_of(make_checkpoint(tmp_path, "llama"))
    model = wrap(load_base(str(tmp_path), CPU, plan.head_modules), plan)
    keys = [f"base_model.model.{p}.lora_{x}.weight" for p in plan_targets(model) for x in "AB"]
    check_saved([*keys, "base_model.model.score.weight"], model)
    with pytest.raises(TrainerError, match="lacks 1 trained tensors"):
        check_saved(keys, model)


def plan_targets(model: PeftModel) -> list[str]:
    return list(model.base_model.targeted_module_names)


@pytest.mark.parametrize("name", ["llama", "bert", "mixtral"])
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 2, "alpha": 8, "dropout": 0.1, "use_rslora": True},
        {"r": 4, "use_dora": True},
    ],
)
def test_lora_arguments_are_those_of_trl_s_own_helper(
    tmp_path: Path, name: str, lora: dict[str, Any]
):
    plan = plan_of(make_checkpoint(tmp_path, name), lora=lora)
    ours, _ = plan.kwargs()
    theirs = get_peft_config(
        ModelConfig(
            use_peft=True,
            lora_task_type="SEQ_CLS",
            lora_r=lora["r"],
            lora_alpha=lora.get("alpha", 32),
            lora_dropout=lora.get("dropout", 0.0),
            use_rslora=lora.get("use_rslora", False),
            use_dora=lora.get("use_dora", False),
            lora_target_modules=plan.kwargs()[0]["target_modules"],
            lora_modules_to_save=plan.kwargs()[0]["modules_to_save"],
        )
    )
    assert LoraConfig(**ours).to_dict() == theirs.to_dict()


@pytest.mark.parametrize("name", ["gpt2", "bert", "starcoder2", "falcon"])
def test_only_lora_s_dropout_is_ever_on(tmp_path: Path, name: str):
    plan = plan_of(
        make_checkpoint(tmp_path, name, attention_dropout=0.2, hidden_dropout=0.2),
        lora={"dropout": 1e-6},
    )
    model = wrap(load_base(str(tmp_path), CPU, plan.head_modules), plan).train()
    ids = torch.tensor([IDS[0]])
    with torch.no_grad():
        assert len({model(input_ids=ids).logits.item() for _ in range(5)}) == 1
    lora = [m for n, m in model.named_modules() if "lora_dropout" in n]
    assert {m.p for m in lora if isinstance(m, torch.nn.Dropout)} == {1e-6}


@pytest.mark.parametrize("name", ["llama", "bert", "mixtral"])
def test_every_adapter_weight_has_a_gradient_under_checkpointing(tmp_path: Path, name: str):
    plan = plan_of(
        make_checkpoint(tmp_path, name),
        training={"gradient_checkpointing": True, "batch_size": 2, "max_steps": 1},
    )
    from datasets import Dataset

    from worker.reward_model.pair_tokenizer import load_tokenizer

    model = wrap(load_base(str(tmp_path), CPU, plan.head_modules), plan)
    with torch.no_grad():  # LoRA's B starts at 0, and with it the gradient of A
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
    assert embedded.requires_grad  # enable_input_require_grads is in force
    model.train()
    model.gradient_checkpointing_enable()
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model, batch).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    flat = {n for n, p in trained.items() if p.grad is None or not p.grad.any()}
    # The last bias of an encoder's head is the same in both rewards, so the loss has none of it.
    assert {n for n in flat if not n.endswith("classifier.modules_to_save.default.bias")} == set()
