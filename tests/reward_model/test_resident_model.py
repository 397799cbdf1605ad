"""Scores of the resident model are those that plain PEFT gives to each sequence alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.model_factories.reward_trainers import FAMILIES, PAD, TARGETS, VOCABULARY, make_model
from worker.reward_model import resident_model
from worker.reward_model.grouped_lora import NotGroupableError
from worker.reward_model.packaged_adapter import AdapterWeights
from worker.reward_model.resident_model import ReplyGroup, ResidentModel

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SUMMARY: dict[str, Any] = {
    "dtype": "float32",
    "quantization": "none",
    "head_modules": ["score"],
    "pad_token_id": PAD,
}
NAMES = ["ad_1", "ad_2", "ad_3"]
TINY_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "num_labels": 1,
}


class Bases:
    """Base models and adapters on disk, made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def adapters(self, family: str, names: list[str] = NAMES, **lora: Any) -> Path:
        """Save the base and random adapters of it, each with a head of its own."""
        folder = self._folder / (family + "".join(sorted(lora)))
        if folder.is_dir():
            return folder
        model = make_bert() if family == "bert" else make_model(family)
        model.save_pretrained(str(folder / "base"))
        for number, name in enumerate(names):
            base = load_base(folder)
            torch.manual_seed(number)
            targets = ["query", "value"] if family == "bert" else TARGETS.get(family, "all-linear")
            config = LoraConfig(
                task_type="SEQ_CLS",
                r=2 + number,
                lora_alpha=8,
                init_lora_weights=False,
                **{"target_modules": targets, "use_rslora": number == 1, **lora},
            )
            adapter = get_peft_model(base, config)
            for key, parameter in adapter.named_parameters():
                if ".modules_to_save." in key:
                    torch.nn.init.normal_(parameter, std=0.3)
            adapter.save_pretrained(str(folder / name))
        return folder


def make_bert() -> Any:
    torch.manual_seed(7)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **TINY_BERT))


def load_base(folder: Path) -> Any:
    base = AutoModelForSequenceClassification.from_pretrained(str(folder / "base"), num_labels=1)
    base.config.get_text_config().pad_token_id = PAD
    return base.eval()


def resident(folder: Path, family: str = "llama", *, batch_tokens: int = 96) -> ResidentModel:
    """Load the base with all of its adapters."""
    head = {"head_modules": ["classifier"]} if family == "bert" else {}
    model = ResidentModel(folder / "base", SUMMARY | head, "cpu", batch_tokens)
    for name in NAMES:
        assert model.add(name, AdapterWeights.read(folder / name, "cpu")) > 0
    return model


def alone(folder: Path, groups: list[ReplyGroup]) -> list[list[float]]:
    """Score each sequence alone with plain PEFT."""
    models = {
        name: PeftModel.from_pretrained(load_base(folder), str(folder / name)).eval()
        for name in NAMES
    }
    with torch.inference_mode():
        return [
            [
                models[group.adapter](torch.tensor([ids]), torch.ones(1, len(ids))).logits.item()
                for ids in group.sequences
            ]
            for group in groups
        ]


def make_groups(seed: int, *, sizes: tuple[int, ...] = (1, 4, 1, 3, 2, 8)) -> list[ReplyGroup]:
    """Draw groups of several replies to a prompt, some of them empty, for changing adapters."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(2, VOCABULARY) for _ in range(count)]

    groups = []
    for number, size in enumerate(sizes):
        prompt = ids(draw.randint(1, 30))
        replies = [prompt + ids(draw.choice((0, 1, 7, 20))) for _ in range(size)]
        groups.append(ReplyGroup(NAMES[number * 2 % 3], replies))
    return groups


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def assert_same(found: list[list[float]], expected: list[list[float]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", *FAMILIES])
def test_scores_are_those_of_plain_peft_one_by_one(bases: Bases, family: str) -> None:
    folder = bases.adapters(family)
    model, groups = resident(folder, family), make_groups(1)
    result = model.score(groups)
    assert_same(result.rewards, alone(folder, groups))
    if family != "bert":
        assert all(map(model.is_packed, NAMES))
        assert result.computed_tokens < sum(group.token_count for group in groups)


@pytest.mark.parametrize("family", ["bert", *FAMILIES])
def test_default_dtype_changes_no_score(bases: Bases, family: str) -> None:
    """transformers changes it while it creates another base model in another thread."""
    folder = bases.adapters(family)
    model, groups = resident(folder, family), make_groups(6)
    expected = model.score(groups).rewards
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = model.score(groups).rewards
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"modules_to_save": ["score", "norm"]}], ids=["dora", "norm"]
)
def test_adapter_that_cannot_share_a_row_is_scored_in_padded_batches(
    bases: Bases, lora: dict[str, Any]
) -> None:
    folder, groups = bases.adapters("qwen2", **lora), make_groups(2)
    model = resident(folder)
    assert not any(map(model.is_packed, NAMES))
    assert_same(model.score(groups).rewards, alone(folder, groups))


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_deterministic_scores_are_bitwise_those_of_the_sequence_alone(
    bases: Bases, family: str
) -> None:
    folder, groups = bases.adapters(family), make_groups(3)
    together = resident(folder, family).score(groups, is_deterministic=True).rewards
    model = resident(folder, family)
    assert together == [
        [
            model.score([ReplyGroup(group.adapter, [ids])], is_deterministic=True).rewards[0][0]
            for ids in group.sequences
        ]
        for group in groups
    ]


def test_adapters_come_and_go_without_changing_the_others(bases: Bases) -> None:
    folder, groups = bases.adapters("llama"), make_groups(4)
    model = resident(folder)
    expected = alone(folder, groups)
    model.remove("ad_1")
    assert model.adapters == ["ad_2", "ad_3"]
    kept = [i for i, group in enumerate(groups) if group.adapter != "ad_1"]
    found = model.score([groups[i] for i in kept]).rewards
    assert_same(found, [expected[i] for i in kept])
    model.add("ad_1", AdapterWeights.read(folder / "ad_1", "cpu"))
    assert_same(model.score(groups).rewards, expected)


def test_group_above_the_bound_is_split(bases: Bases) -> None:
    folder = bases.adapters("llama")
    groups = make_groups(5, sizes=(16, 1))
    small, large = resident(folder, batch_tokens=40), resident(folder, batch_tokens=4000)
    few, many = large.score(groups), small.score(groups)
    assert_same(many.rewards, few.rewards)
    assert many.computed_tokens > few.computed_tokens


def test_rows_on_a_cpu_are_short_for_each_of_its_threads(
    bases: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, groups = bases.adapters("llama"), make_groups(7)
    model = resident(folder, batch_tokens=4000)
    assert model._packed is not None
    rows: list[int] = []
    model._packed.decoder.register_forward_pre_hook(
        lambda _module, _args, arguments: rows.append(arguments["input_ids"].shape[1]),
        with_kwargs=True,
    )
    expected = model.score(groups).rewards
    assert len(rows) == 1
    total = rows.pop()
    monkeypatch.setattr(resident_model, "CPU_ROW_TOKENS", 80)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert_same(model.score(groups).rewards, expected)
        short, rows[:] = list(rows), []
        torch.set_num_threads(2)
        model.score(groups)
    finally:
        torch.set_num_threads(threads)
    assert sum(short) == sum(rows) == total
    assert len(short) > len(rows) > 1


@pytest.mark.parametrize(("family", "is_patched"), [("qwen2", True), ("gemma2", False)])
def test_mlp_with_the_code_of_llama_computes_the_same_bits_in_place(
    bases: Bases, family: str, *, is_patched: bool
) -> None:
    model = resident(bases.adapters(family), family)
    assert model._packed is not None
    mlp: Any = model._packed.layers[0].mlp
    assert ("forward" in vars(mlp)) == is_patched
    x = torch.randn(1, 5, mlp.gate_proj.in_features)
    before = x.clone()
    with torch.inference_mode():
        assert torch.equal(mlp(x), type(mlp).forward(mlp, x))
    assert torch.equal(x, before)


def test_trailing_pad_tokens_are_ignored_as_transformers_does(bases: Bases) -> None:
    folder = bases.adapters("llama")
    groups = [ReplyGroup("ad_1", [[5, 6, PAD, 7, PAD, PAD], [5, PAD]])]
    assert_same(resident(folder).score(groups).rewards, alone(folder, groups))


def test_adapter_without_a_head_is_never_scored_with_the_random_one(bases: Bases) -> None:
    folder = bases.adapters("llama")
    model = resident(folder)
    assert model._packed is not None
    del model._packed.head.modules_to_save["ad_1"]  # type: ignore[operator, union-attr]
    with pytest.raises((KeyError, NotGroupableError)):
        model.score([ReplyGroup("ad_1", [[5, 6]])])
