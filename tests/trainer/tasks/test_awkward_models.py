"""Base models made by other tools, for other uses and with other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken

from app.domain.progress import Failed, Noted, Packaged
from app.domain.spec_problems import SpecRejectedError
from app.domain.warnings import WarningCode
from tests.model_factories.architectures import (
    VOCAB_ROWS,
    make_base_model,
    make_classifier,
    make_tokenizer,
)
from tests.model_factories.orders import TinyBase, facts_of
from tests.model_factories.pairs import make_pairs
from tests.model_factories.trainer_process import RecordingChannel, certificate_of
from worker.ipc.order import EXIT_DONE, EXIT_FAILED
from worker.reward_model.head_start import start_head
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.run_task import run_task

CPU = DeviceConfig("cpu", bf16=False)
WEIGHTS = "model.safetensors"
BEYOND = "<image_soft_token>"
ENDS_IN_EOS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rename_head(directory: Path, name: str, value: float = 0.3, **more: torch.Tensor) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors[name] = torch.full_like(tensors.pop("score.weight"), value)
    save_file({**tensors, **more}, directory / WEIGHTS, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """A Mistral model of another trainer: its pad token ends every conversation, a token has no row
    of the embedding, its head is called value_head, and its config asks for tuples and kernels."""
    directory = tmp_path_factory.mktemp("awkward") / "base"
    make_classifier(directory, "mistral", 1, pad_token_id=None)
    rename_head(directory, "value_head.weight")
    edit_config(
        directory,
        return_dict=False,
        torchscript=True,
        attn_implementation="flash_attention_2",
        output_hidden_states=True,
    )
    tokenizer = make_tokenizer(pad_token=None)
    tokenizer.chat_template = "<pad>".join(("{% if false %}", "{% endif %}")) + ENDS_IN_EOS
    filler = [f"filler{i}" for i in range(VOCAB_ROWS - len(tokenizer))]
    tokenizer.add_tokens([AddedToken(word, special=False) for word in filler])
    tokenizer.add_tokens([AddedToken(BEYOND, special=True)])
    tokenizer.save_pretrained(directory)
    return TinyBase.of(directory, directory.parent / "files")


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_awkward_model_is_trained_with_another_pad_token_and_from_its_head(
    awkward: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    order = awkward.order(eval_count=0, count=8, training={"max_steps": 1, "batch_size": 4})
    assert order.plan
    assert order.plan.tokenization.pad_token == "<unk>"
    assert run_task(order, channel) == EXIT_DONE, channel.of(Failed)
    (packaged,) = channel.of(Packaged)
    certificate = certificate_of(order, work / packaged.directory)
    assert certificate["max_abs_difference"] < 1e-5
    assert certificate["head_start"] == "base_model"
    assert certificate["head_tensors"] == {"score.weight": "value_head.weight"}
    trained = load_file(work / packaged.directory / "adapter_model.safetensors")
    (head,) = (tensor for name, tensor in trained.items() if name.endswith("score.weight"))
    # One step of AdamW moves a weight by the learning rate.
    assert float((head - 0.3).abs().max()) <= 0.0101
    assert not [m for m in channel.of(Noted) if m.is_warning and m.code == WarningCode.HEAD_UNUSED]


def test_row_with_a_token_beyond_the_embedding_is_named(
    awkward: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    rows = make_pairs(8)
    rows[2]["chosen"][0]["content"] = f"tea {BEYOND}"
    assert run_task(awkward.order(eval_count=0, rows=rows), channel) == EXIT_FAILED
    (failed,) = channel.of(Failed)
    assert failed.code == "dataset_invalid"
    assert failed.detail.startswith(f"line 3: it contains {BEYOND!r}, which is token {VOCAB_ROWS}")


def assert_head_is_taken_over(model_dir: Path, name: str) -> None:
    """Assert that a model starts with this tensor, all 0.3, as its head."""
    base = TinyBase.of(model_dir, model_dir / "files")
    assert base.facts.head_tensors == {"score.weight": name}
    plan = base.order(count=2, eval_count=0).plan
    assert plan
    model = load_base(str(model_dir), CPU, plan.head_modules)
    start_head(model, str(model_dir), plan)
    assert torch.equal(model.score.weight, torch.full((1, 32), 0.3))


@pytest.mark.parametrize(
    "name",
    ["value_head.weight", "v_head.summary.weight", "v_head.weight", "reward_head.weight",
     "model.value_head.weight", "classifier.weight", "regression_head.weight"],
)  # fmt: skip
def test_head_under_another_name_is_taken_over(tmp_path: Path, name: str) -> None:
    make_classifier(tmp_path, "llama", 1)
    rename_head(tmp_path, name, **{name.replace("weight", "bias"): torch.zeros(1)})
    assert_head_is_taken_over(tmp_path, name)


def test_head_in_a_file_of_its_own_is_taken_over(tmp_path: Path) -> None:
    """As LLaMA-Factory saves a reward model. Other files may hold tensors of the same name."""
    make_base_model(tmp_path, "llama")
    name = "v_head.summary.weight"
    for file, value in (("adapter_model", 9.0), ("value_head", 0.3), ("zzz", 9.0)):
        save_file({name: torch.full((1, 32), value)}, tmp_path / f"{file}.safetensors")
    assert_head_is_taken_over(tmp_path, name)


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_head_that_is_not_finite_is_the_fault_of_the_base_model(
    tmp_path: Path, channel: RecordingChannel, work: Path
) -> None:
    make_classifier(tmp_path / "base", "llama", 1)
    rename_head(tmp_path / "base", "v_head.weight", float("nan"))
    order = TinyBase.of(tmp_path / "base", tmp_path / "files").order(count=8, eval_count=4)
    assert run_task(order, channel) == EXIT_FAILED
    (failed,) = channel.of(Failed)
    assert failed.code == "nan_loss"
    assert "step 0 is not a finite number: the weights of the base model" in failed.detail


def test_new_head_is_drawn_although_there_is_a_trained_one(tmp_path: Path) -> None:
    make_classifier(tmp_path, "llama", 1)
    stored = load_file(tmp_path / WEIGHTS)["score.weight"]
    base = TinyBase.of(tmp_path, tmp_path / "files")
    for choice, is_kept in (("reuse", True), ("new", False)):
        plan = base.order(count=2, eval_count=0, base_model_head=choice).plan
        assert plan
        model = load_base(str(tmp_path), CPU, plan.head_modules)
        start_head(model, str(tmp_path), plan)
        assert torch.equal(model.score.weight, stored) == is_kept
        assert model.score.weight.std() > 0.01


@pytest.mark.parametrize(
    ("labels", "more", "found"),
    [
        (2, {}, ["score.weight [2, 32]"]),
        (1, {"v_head.weight": torch.ones(1, 32)}, ["reward_head.weight [1, 32]",
                                                   "v_head.weight [1, 32]"]),
    ],
    ids=["two-rows", "two-heads"],
)  # fmt: skip
def test_head_that_does_not_fit_is_named_in_a_warning(
    tmp_path: Path, labels: int, more: dict[str, torch.Tensor], found: list[str]
) -> None:
    make_classifier(tmp_path / "base", "llama", labels)
    if labels == 1:
        rename_head(tmp_path / "base", "reward_head.weight", **more)
    base = TinyBase.of(tmp_path / "base", tmp_path / "files")
    assert base.facts.unused_heads == found
    order = base.order(count=8, eval_count=0).model_copy(update={"action": "inspect"})
    channel = RecordingChannel()
    assert run_task(order, channel) == EXIT_DONE
    (note,) = (m for m in channel.of(Noted) if m.code == WarningCode.HEAD_UNUSED)
    assert found[0] in note.message
    with pytest.raises(SpecRejectedError, match="no one-row head"):
        base.order(count=8, base_model_head="reuse")
    assert base.order(count=8, base_model_head="new").plan.head.unused == []  # type: ignore[union-attr]


ROW, SQUARE = torch.full((1, 32), 0.3), torch.ones(32, 32)


@pytest.mark.parametrize(
    ("heads", "found"),
    [
        ({"v_head.weight": torch.ones(32)}, ["v_head.weight [32]"]),
        ({"v_head.weight": ROW.T.contiguous()}, ["v_head.weight [32, 1]"]),
        # As Qwen2.5-Math-RM has it.
        ({"score.0.weight": SQUARE, "score.0.bias": torch.ones(32), "score.2.weight": ROW},
         ["score.0.weight [32, 32]", "score.2.weight [1, 32]"]),
        ({"classifier.dense.weight": SQUARE, "classifier.out_proj.weight": ROW},
         ["classifier.dense.weight [32, 32]", "classifier.out_proj.weight [1, 32]"]),
        ({"rank_layer.weight": ROW}, ["rank_layer.weight [1, 32]"]),
        ({"discriminator_predictions.dense_prediction.weight": ROW}, []),
    ],
    ids=["flat", "transposed", "layers", "dense-and-output", "unknown-name", "other-task"],
)  # fmt: skip
def test_head_of_another_form_is_named_and_not_taken_over(
    tmp_path: Path, heads: dict[str, torch.Tensor], found: list[str]
) -> None:
    make_base_model(tmp_path, "llama")
    weights = load_file(tmp_path / WEIGHTS) | heads
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    facts = facts_of(tmp_path)
    assert (facts.head_tensors, facts.unused_heads) == ({}, found)


@pytest.mark.parametrize("name", ["bert", "modernbert", "electra", "deberta-v2"])
def test_head_of_a_masked_language_model_is_no_reward_head(name: str, tmp_path: Path) -> None:
    facts = facts_of(make_base_model(tmp_path, name))
    assert (facts.head_tensors, facts.unused_heads) == ({}, [])
