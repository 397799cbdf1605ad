"""A dozen architectures from a base model to a reloaded adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, set_seed

from bench.architectures import round_trip
from tests.model_factories.architectures import make_base_model, make_classifier
from worker.reward_model.scoring import score

# transformers is renaming gradient checkpointing; PEFT and TRL still use the old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),  # PEFT corrects it for GPT-2
]

IDS = [[1, 20, 30, 40, 50], [1, 20, 31, 41], [1, 60, 70, 80, 90, 100, 110], [1, 61]]


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
    result = round_trip(make_base_model(tmp_path / "base", name), tmp_path, steps=2)
    assert result.reload_difference == 0
    assert result.saved == result.trained
    # The last bias of an encoder's head cancels out of the loss.
    assert result.moved >= result.trained - 1
    assert result.padding_difference < 1e-6


@pytest.mark.train
@pytest.mark.parametrize("name", ["bert", "flaubert"])
def test_head_of_a_one_label_classifier_is_trained_and_saved(tmp_path: Path, name: str):
    result = round_trip(make_classifier(tmp_path / "base", name, 1), tmp_path, steps=2)
    assert (result.reload_difference, result.saved) == (0, result.trained)


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
def test_lora_options_survive_a_reload(tmp_path: Path, lora: dict[str, Any]):
    result = round_trip(make_base_model(tmp_path / "base", "bert"), tmp_path, spec={"lora": lora})
    assert (result.reload_difference, result.saved) == (0, result.trained)


def test_adapter_without_the_pooler_changes_the_scores(tmp_path: Path):
    """Control: PEFT by itself leaves the pooler out, so that a difference of 0 means something."""
    checkpoint = make_base_model(tmp_path, "bert")

    def scores(seed: int, adapter: Path | None) -> list[float]:
        set_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
        if adapter is not None:
            return score(PeftModel.from_pretrained(base, adapter), IDS, pad_token_id=0)
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
        model.save_pretrained(tmp_path / "adapter")
        return score(model, IDS, pad_token_id=0)

    before, after = scores(1, None), scores(2, tmp_path / "adapter")
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-3
