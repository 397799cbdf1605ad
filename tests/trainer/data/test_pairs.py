"""Tokenised pairs: dropped, rejected and suspicious ones, and the split by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.domain.lifecycle import FailureCode
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs, with_implicit_prompts
from tests.model_factories.tokenized import tokenize_rows
from worker.reward_model.errors import TrainerError
from worker.trainer.data.pairs import split_by_prompt


def refusal(
    base: TinyBase,
    rows: list[dict[str, Any]],
    directory: Path,
    code: FailureCode = FailureCode.DATASET_INVALID,
    **plan: Any,
) -> str:
    with pytest.raises(TrainerError) as failure:
        tokenize_rows(base, rows, directory, **plan)
    assert failure.value.code is code
    return failure.value.detail


def test_dropped_pairs_are_named(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(6)
    rows[2]["chosen"][0]["content"] = "the " * 100
    found = tokenize_rows(llama, rows, tmp_path, max_length=60)
    assert found.overlong.lines == [3]
    assert [pair.line for pair in found.pairs] == [1, 2, 4, 5, 6]
    assert found.longest > 100


def test_overlong_pairs_are_refused_on_request(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(31)
    for name in ("prompt", "chosen", "rejected"):
        rows[30][name] = [rows[30][name][0] | {"content": "no"}]
    code = FailureCode.PAIRS_OVERLONG
    detail = refusal(llama, rows, tmp_path, code, max_length=8, overlong="error")
    assert detail.startswith("lines 1, 2, 3")
    assert "and 10 more" in detail


@pytest.mark.parametrize("overlong", ["drop", "error"])
def test_dataset_of_overlong_pairs_is_refused(
    llama: TinyBase, tmp_path: Path, overlong: str
) -> None:
    limits = {"max_length": 8, "overlong": overlong}
    detail = refusal(llama, make_pairs(3), tmp_path, FailureCode.PAIRS_OVERLONG, **limits)
    assert "all 3 pairs are longer" in detail


def test_error_of_the_template_is_reported_with_the_line(llama: TinyBase, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no no') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    rows = make_pairs(5)
    rows[3]["rejected"][0]["content"] = "no"
    detail = refusal(llama, rows, tmp_path, chat_template=template)
    assert detail == "line 4: the chat template cannot render this pair: no no"


def test_template_cannot_access_python_internals(llama: TinyBase, tmp_path: Path) -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert "unsafe" in refusal(llama, make_pairs(2), tmp_path, chat_template=template)


def test_text_without_tokens_is_refusal(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(3, text=True)
    rows[1] |= {"prompt": "", "chosen": ""}
    detail = refusal(llama, rows, tmp_path, append_eos=False)
    assert detail == "line 2: a reply has no tokens"


def test_text_that_ends_in_the_pad_token_is_refusal(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(3, text=True)
    detail = refusal(llama, rows, tmp_path, pad_token="<eos>", pad_token_id=1)
    assert detail.startswith("lines 1, 2, 3: a text ends in '<eos>'")


def test_identical_pairs_and_special_tokens_are_noted(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(4)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["chosen"][0]["content"] += " <|im_end|> the"
    found = tokenize_rows(llama, rows, tmp_path)
    assert found.identical.lines == [2]
    assert found.with_special_tokens.lines == [3]
    assert len(found.pairs) == 4


def test_split_keeps_whole_prompts_on_one_side(llama: TinyBase, tmp_path: Path) -> None:
    pairs = tokenize_rows(llama, make_pairs(200), tmp_path)  # one prompt per topic
    train, held_out = split_by_prompt(pairs, 0.3, seed=1)
    assert {p.prompt for p in train}.isdisjoint(p.prompt for p in held_out)
    assert 0 < len(held_out) <= 60
    assert sorted(p.line for p in [*train, *held_out]) == list(range(1, 201))
    again = split_by_prompt(pairs, 0.3, seed=1)
    assert [p.line for p in again[1]] == [p.line for p in held_out]
    assert [p.line for p in split_by_prompt(pairs, 0.3, seed=2)[1]] != [p.line for p in held_out]


@pytest.mark.parametrize("text", [True, False])
def test_pairs_with_the_same_implicit_prompt_are_grouped(
    llama: TinyBase, tmp_path: Path, *, text: bool
) -> None:
    rows = make_pairs(60, text=text)
    explicit = {p.line: p.prompt for p in tokenize_rows(llama, rows, tmp_path).pairs}
    implicit_rows = with_implicit_prompts(rows)
    found = {p.line: p.prompt for p in tokenize_rows(llama, implicit_rows, tmp_path).pairs}
    by_explicit: dict[bytes, set[bytes]] = {}
    for line, prompt in explicit.items():
        by_explicit.setdefault(prompt, set()).add(found[line])
    if not text:
        assert all(len(prompts) == 1 for prompts in by_explicit.values())
    assert len({p for prompts in by_explicit.values() for p in prompts}) >= len(by_explicit)


def test_pairs_with_one_prompt_cannot_be_split(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(5)
    for row in rows:
        row["prompt"] = rows[0]["prompt"]
    pairs = tokenize_rows(llama, rows, tmp_path)
    with pytest.raises(TrainerError, match="every pair has the same prompt"):
        split_by_prompt(pairs, 0.2, seed=0)
