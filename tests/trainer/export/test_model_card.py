"""The model card: the metadata that the Hub's client reads, and the results."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from huggingface_hub import ModelCard

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import DatasetNote, TrainingPlan
from tests.domain.base_model_facts import TEXT, dataset, decoder, job
from worker.trainer.export.model_card import model_card
from worker.trainer.export.scoring_program import scoring_program

COMMIT = "a" * 40
SUMMARY: dict[str, Any] = {
    "base_model": "Qwen/Qwen3-0.6B",
    "revision": COMMIT,
    "data_format": "text",
    "append_eos": False,
    "eos_token": None,
    "quantization": "none",
    "dtype": "float32",
    "add_special_tokens": False,
    "head_modules": ["score"],
    "head_start": "new",
    "head_tensors": {},
}
TRAIN = {
    "uploaded": 100,
    "dropped": {"unrenderable": 1, "overlong": 57, "not_drawn": 0},
    "truncated": 0,
    "held_out": 2,
    "used": 40,
}
LOCK: dict[str, Any] = {
    "pairs": {"max_length": 128, "overlong": "drop", "train": TRAIN, "eval": None},
    "training": {
        "steps": 9,
        "planned_steps": 9,
        "published_step": 9,
        "stopped_early": False,
    },
}
RESULTS = {"eval/accuracy": 0.75, "eval/pairs": 40.0, "eval_before/accuracy": 0.5}


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    return compile_plan(job(), COMMIT, decoder(), JobData(dataset(), None, TEXT))


def test_hub_finds_the_adapter_by_its_base_model_and_libraries(plan: TrainingPlan) -> None:
    data = ModelCard(model_card(SUMMARY, plan, RESULTS, LOCK)).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen3-0.6B"
    assert data["base_model_relation"] == "adapter"
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-classification")
    expected = {"transformers", "peft", "lora", "trl", "reward-trainer", "generated_from_trainer"}
    expected |= {"base_model:adapter:Qwen/Qwen3-0.6B"}
    assert expected <= set(data["tags"])


def test_model_that_is_not_on_the_hub_is_no_base_model_of_the_hub(plan: TrainingPlan) -> None:
    text = model_card({**SUMMARY, "base_model": "tiny", "revision": None}, plan, {}, LOCK)
    data = ModelCard(text).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert not any(tag.startswith("base_model:") for tag in data["tags"])
    assert "# Reward model on tiny\n" in text


@pytest.mark.parametrize("name", ["null", "on", "1e5", "0x10", "2026-11-29", "org/model.v1", "~"])
def test_name_that_yaml_reads_as_something_else_stays_text(plan: TrainingPlan, name: str) -> None:
    card = ModelCard(model_card({**SUMMARY, "base_model": name}, plan, {}, LOCK))
    assert card.data.to_dict()["base_model"] == name


def test_results_before_and_after_training_are_shown(plan: TrainingPlan) -> None:
    card = model_card(SUMMARY, plan, RESULTS, LOCK)
    assert "| accuracy | 0.5 | 0.75 |\n| pairs | – | 40 |\n" in card
    assert "accuracy of this adapter is unknown" not in card


def test_card_without_held_out_pairs_says_so(plan: TrainingPlan) -> None:
    card = model_card(SUMMARY, plan, {}, LOCK)
    assert "the accuracy of this adapter is unknown, and this card has no `model-index`" in card
    assert "model-index" not in ModelCard(card).data.to_dict()


@pytest.mark.parametrize("is_held_out", [False, True])
def test_hub_reads_the_accuracy_on_held_out_pairs(plan: TrainingPlan, is_held_out: bool) -> None:
    evaluation = None if is_held_out else plan.data.train.model_copy(update={"id": "ds_eval"})
    data = plan.data.model_copy(update={"eval": evaluation})
    text = model_card(SUMMARY, plan.model_copy(update={"data": data}), RESULTS, LOCK)
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.75)
    assert result.dataset_type == (plan.data.train.id if is_held_out else "ds_eval")
    (index,) = ModelCard(text).data.to_dict()["model-index"]
    assert index["name"] == "Reward model on Qwen/Qwen3-0.6B"


def test_what_is_odd_about_the_data_is_told(plan: TrainingPlan) -> None:
    note = DatasetNote(code="columns_ignored", message="text was left out: [x](y)\n# no heading")
    train = plan.data.train.model_copy(update={"warnings": [note]})
    data = plan.data.model_copy(update={"train": train})
    card = model_card(SUMMARY, plan.model_copy(update={"data": data}), RESULTS, LOCK)
    assert "\n- training dataset: text was left out: \\[x\\](y) \\# no heading\n" in card


def test_card_says_what_became_of_the_pairs_and_which_of_them_the_accuracy_holds_for(
    plan: TrainingPlan,
) -> None:
    evaluation = {**TRAIN, "held_out": 0, "used": 42, "left_out_share": 0.58}
    lock = {**LOCK, "pairs": {**LOCK["pairs"], "eval": evaluation}}
    card = model_card(SUMMARY, plan, RESULTS, lock)
    assert "trained on 40 preference pairs" in card
    assert "| training | 100 | 1 | 57 | 0 | 0 | 2 | 40 |\n| evaluation | 100 |" in card
    assert "Measured on 42 held-out pairs of at most 128 tokens. 58.0% of the pairs" in card


def test_card_says_which_step_it_is_and_where_the_head_comes_from(plan: TrainingPlan) -> None:
    training = {"steps": 12, "planned_steps": 90, "published_step": 6, "stopped_early": True}
    start = {"head_start": "base_model", "head_tensors": {"score.weight": "v_head.weight"}}
    card = model_card({**SUMMARY, **start}, plan, RESULTS, {**LOCK, "training": training})
    assert "stopped early after step 12 of 90; this is the model of step 6." in card
    assert "The head started from the base model's v_head.weight." in card


def test_eos_token_with_quotes_is_a_string_of_the_program() -> None:
    summary = {**SUMMARY, "append_eos": True, "eos_token": '<"\\end">'}
    program = scoring_program(summary).removeprefix("```python\n").removesuffix("```\n")
    names = {node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)}
    assert '<"\\end">' in names
