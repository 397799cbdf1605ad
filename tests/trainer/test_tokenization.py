from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from app.domain.lifecycle import FailureCode
from app.domain.plan import TokenizationPlan, TrainingPlan
from tests.trainer.conftest import Base
from tests.trainer.tiny import make_pairs, make_plan, write_rows
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import Tokenized, split, tokenize
from worker.trainer.data.tokenized_rows import PairFile


def tokenizer_of(base: Base, rows: list[dict[str, Any]], **changes: Any) -> PairTokenizer:
    plan: TrainingPlan = make_plan(base.facts, rows)
    tokens = TokenizationPlan.model_validate(plan.tokenization.model_dump() | changes)
    return PairTokenizer(base.directory, tokens, plan.data.format)


def tokenized(base: Base, rows: list[dict[str, Any]], folder: Path, **changes: Any) -> Tokenized:
    return tokenize(
        PairFile(write_rows(folder / "rows.jsonl", rows)), tokenizer_of(base, rows, **changes)
    )


def refused(
    base: Base,
    rows: list[dict[str, Any]],
    folder: Path,
    code: FailureCode = FailureCode.DATASET_INVALID,
    **changes: Any,
) -> str:
    with pytest.raises(TrainerError) as failure:
        tokenized(base, rows, folder, **changes)
    assert failure.value.code is code
    return failure.value.detail


def implicit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
            "line": row["line"],
        }
        for row in rows
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize(
    ("model", "text"),  # TRL cannot take plain text for a tokenizer without EOS, as MiniLM's
    [("llama", True), ("llama", False), ("minilm", False)],
)
def test_gives_the_ids_that_trl_gives(
    model: str, is_implicit: bool, text: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(model)
    rows = make_pairs(12, text=text)
    rows = implicit(rows) if is_implicit else rows
    if text and not is_implicit:
        rows[3]["chosen"] += "<eos>"  # there already
    ours = tokenizer_of(base, rows)
    theirs = AutoTokenizer.from_pretrained(base.directory)
    theirs.chat_template = ours.plan.chat_template
    columns = [{k: v for k, v in row.items() if k not in ("line", "slice")} for row in rows]
    args = RewardConfig(str(tmp_path), use_cpu=True, bf16=False, max_length=None)
    prepared = RewardTrainer._prepare_dataset(
        object.__new__(RewardTrainer), Dataset.from_list(columns), theirs, args, "train"
    )
    found = tokenize(PairFile(write_rows(tmp_path / "rows.jsonl", rows)), ours).pairs
    assert [pair.chosen.tolist() for pair in found] == prepared["chosen_ids"]
    assert [pair.rejected.tolist() for pair in found] == prepared["rejected_ids"]


def test_encoder_reads_a_conversation_between_its_own_tokens(minilm: Base, tmp_path: Path) -> None:
    assert minilm.facts.tokens_around == ("[CLS]", "[SEP]")
    (pair,) = tokenized(minilm, make_pairs(1), tmp_path).pairs
    tokenizer = AutoTokenizer.from_pretrained(minilm.directory)
    assert tokenizer.decode(pair.chosen).startswith("[CLS] user : please tell me about")
    assert (pair.chosen[0], pair.chosen[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert list(pair.chosen).count(tokenizer.sep_token_id) == 1


def test_decoder_that_puts_nothing_around_a_text_gets_nothing(llama: Base) -> None:
    assert llama.facts.tokens_around == ("", "")


def test_overlong_pairs_are_named_when_dropped(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(6)
    rows[2]["chosen"][0]["content"] = "the " * 100
    found = tokenized(llama, rows, tmp_path, max_length=60)
    assert found.overlong == [3]
    assert [pair.line for pair in found.pairs] == [1, 2, 4, 5, 6]
    assert found.longest > 100


def test_overlong_pairs_are_an_error_when_asked(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(31)
    for name in ("prompt", "chosen", "rejected"):
        rows[30][name] = [rows[30][name][0] | {"content": "no"}]
    code = FailureCode.PAIRS_OVERLONG
    detail = refused(llama, rows, tmp_path, code, max_length=8, overlong="error")
    assert detail.startswith("lines 1, 2, 3")
    assert "and 10 more" in detail


def test_nothing_left_is_an_error(llama: Base, tmp_path: Path) -> None:
    code = FailureCode.PAIRS_OVERLONG
    for overlong in ("drop", "error"):
        limits = {"max_length": 8, "overlong": overlong}
        detail = refused(llama, make_pairs(3), tmp_path, code, **limits)
        assert "all 3 pairs are longer" in detail


def test_template_error_names_the_line(llama: Base, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no no') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    rows = make_pairs(5)
    rows[3]["rejected"][0]["content"] = "no"
    detail = refused(llama, rows, tmp_path, chat_template=template)
    assert detail == "line 4: the chat template cannot render it: no no"


def test_template_cannot_reach_into_python(llama: Base, tmp_path: Path) -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert "unsafe" in refused(llama, make_pairs(2), tmp_path, chat_template=template)


def test_text_without_tokens_is_refused(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(3, text=True)
    rows[1] |= {"prompt": "", "chosen": ""}
    detail = refused(llama, rows, tmp_path, append_eos=False)
    assert detail == "line 2: a reply has no tokens at all"


def test_text_that_ends_in_the_pad_token_is_refused(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(3, text=True)
    detail = refused(llama, rows, tmp_path, pad_token="<eos>", pad_token_id=1)
    assert detail.startswith("lines 1, 2, 3: a text ends in '<eos>'")


def test_odd_pairs_are_noted(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(4)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["chosen"][0]["content"] += " <|im_end|> the"
    found = tokenized(llama, rows, tmp_path)
    assert found.identical == [2]
    assert found.with_special_tokens == [3]
    assert len(found.pairs) == 4


def test_split_keeps_whole_prompts_on_one_side(llama: Base, tmp_path: Path) -> None:
    pairs = tokenized(llama, make_pairs(200), tmp_path).pairs  # ten topics, ten prompts
    train, held_out = split(pairs, 0.3, seed=1)
    assert {p.prompt for p in train}.isdisjoint(p.prompt for p in held_out)
    assert 0 < len(held_out) <= 60
    assert sorted(p.line for p in train + held_out) == list(range(1, 201))
    again = split(pairs, 0.3, seed=1)
    assert [p.line for p in again[1]] == [p.line for p in held_out]
    assert [p.line for p in split(pairs, 0.3, seed=2)[1]] != [p.line for p in held_out]


@pytest.mark.parametrize("text", [True, False])
def test_implicit_prompts_are_found_for_the_split(llama: Base, tmp_path: Path, text: bool) -> None:
    rows = make_pairs(60, text=text)
    explicit = {p.line: p.prompt for p in tokenized(llama, rows, tmp_path).pairs}
    found = {p.line: p.prompt for p in tokenized(llama, implicit(rows), tmp_path).pairs}
    by_explicit: dict[bytes, set[bytes]] = {}
    for line, prompt in explicit.items():
        by_explicit.setdefault(prompt, set()).add(found[line])
    if not text:
        assert all(len(prompts) == 1 for prompts in by_explicit.values())
    assert len({p for prompts in by_explicit.values() for p in prompts}) >= len(by_explicit)


def test_one_prompt_cannot_be_split(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(5)
    for row in rows:
        row["prompt"] = rows[0]["prompt"]
    pairs = tokenized(llama, rows, tmp_path).pairs
    with pytest.raises(TrainerError, match="every pair has the same prompt"):
        split(pairs, 0.2, seed=0)
