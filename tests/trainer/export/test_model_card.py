"""The model card: what the Hub's client reads in it, and the results that it shows."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from app.domain.compiler import compile_plan
from app.domain.plan import DatasetNote, TrainingPlan
from tests.domain.base_model_facts import TEXT, dataset, decoder, job
from worker.trainer.export.model_card import model_card

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
}
RESULTS = {"eval/accuracy": 0.75, "eval/pairs": 40.0, "eval_before/accuracy": 0.5}


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    return compile_plan(job(), COMMIT, decoder(), dataset(), None, TEXT)


def test_hub_finds_the_adapter_by_its_base_model_and_libraries(plan: TrainingPlan) -> None:
    data = ModelCard(model_card(SUMMARY, plan, RESULTS)).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen3-0.6B"
    assert data["base_model_relation"] == "adapter"
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-classification")
    expected = {"peft", "lora", "trl", "reward-trainer", "base_model:adapter:Qwen/Qwen3-0.6B"}
    assert expected <= set(data["tags"])


def test_model_that_is_not_on_the_hub_is_no_base_model_of_the_hub(plan: TrainingPlan) -> None:
    text = model_card({**SUMMARY, "base_model": "tiny", "revision": None}, plan, {})
    data = ModelCard(text).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert not any(tag.startswith("base_model:") for tag in data["tags"])
    assert "# Reward model on tiny\n" in text


@pytest.mark.parametrize("name", ["null", "on", "1e5", "0x10", "2026-11-29", "org/model.v1", "~"])
def test_name_that_yaml_reads_as_something_else_stays_text(plan: TrainingPlan, name: str) -> None:
    card = ModelCard(model_card({**SUMMARY, "base_model": name}, plan, {}))
    assert card.data.to_dict()["base_model"] == name


def test_results_before_and_after_training_are_shown(plan: TrainingPlan) -> None:
    card = model_card(SUMMARY, plan, RESULTS)
    assert "| accuracy | 0.5 | 0.75 |\n| pairs | – | 40 |\n" in card
    assert "accuracy of this adapter is unknown" not in card


def test_card_without_held_out_pairs_says_so(plan: TrainingPlan) -> None:
    assert "the accuracy of this adapter is unknown" in model_card(SUMMARY, plan, {})


def test_what_is_odd_about_the_data_is_told(plan: TrainingPlan) -> None:
    assert "## Data" not in model_card(SUMMARY, plan, RESULTS)
    note = DatasetNote(code="columns_ignored", message="text was left out: [x](y)\n# no heading")
    train = plan.data.train.model_copy(update={"warnings": [note]})
    data = plan.data.model_copy(update={"train": train})
    card = model_card(SUMMARY, plan.model_copy(update={"data": data}), RESULTS)
    assert "## Data\n\n- training dataset: text was left out: \\[x\\](y) \\# no heading\n" in card
