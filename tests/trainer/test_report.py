"""What is odd about a dataset, by line number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.plan import TokenizationPlan
from tests.architectures import CHAT_TEMPLATE, make_checkpoint
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.report import DatasetReportBuilder, shared_prefix
from worker.trainer.data.tokenized_rows import PairFile, TokenizedRow, tokenized_rows


def row(line: int, chosen: str, rejected: str, prompt: str | None = "q: ", **more: Any) -> Any:
    fields = {"line": line, "chosen": chosen, "rejected": rejected, **more}
    return fields if prompt is None else {**fields, "prompt": prompt}


def words(fields: Any, **more: Any) -> TokenizedRow:
    """One token a character of prompt and reply; case is lost, as in uncased vocabularies."""
    ids = [
        [ord(c.lower()) for c in fields.get("prompt", "") + fields[r]]
        for r in ("chosen", "rejected")
    ]
    return TokenizedRow(fields, *map(np.array, ids), **more)


def report(
    rows: Iterable[TokenizedRow], *, max_length: int, eval_rows: Iterable[TokenizedRow] = ()
) -> dict[str, Any]:
    survey = DatasetReportBuilder(max_length)
    for found in rows:
        survey.add(found)
    for found in eval_rows:
        survey.add_held_out(found)
    return survey.document()


def lines(found: dict[str, Any]) -> dict[str, list[int]]:
    return {name: f["lines"] for name, f in found["findings"].items() if f["count"]}


def test_every_oddity_is_named_by_its_line():
    rows = [
        words(row(1, "good", "bad")),
        words(row(2, "good", "bad")),
        words(row(3, "bad", "good")),
        words(row(4, "same", "same")),
        words(row(5, "Case", "case")),
        words(row(6, "x" * 20 + "a", "x" * 20 + "b")),
        words(row(7, " ", "something")),
        words(row(8, "a<|im_end|>", "b"), has_special_tokens=True),
        words(row(9, "good", "bad", prompt="another: ")),
    ]
    assert lines(report(rows, max_length=16)) == {
        "duplicates": [2],
        "contradictions": [3],
        "identical": [4],
        "identical_as_tokens": [5],
        "identical_truncated": [6],
        "overlong": [6],
        "empty": [7],
        "special_tokens": [8],
    }


def test_prompt_in_both_files_leaks():
    train = [words(row(1, "a", "b", "one ")), words(row(2, "a", "b", "two "))]
    held_out = [words(row(1, "c", "d", "three ")), words(row(2, "c", "d", "two "))]
    found = report(train, max_length=64, eval_rows=held_out)
    assert lines(found) == {"leaked": [2]}
    assert (found["rows"], found["eval_rows"], found["prompts"]) == (2, 2, 2)


def test_rows_without_a_prompt_do_not_leak_into_each_other():
    train = [words(row(1, "one", "two", None)), words(row(2, "three", "four", None))]
    held_out = [words(row(1, "five", "six", None))]
    assert lines(report(train, max_length=64, eval_rows=held_out)) == {}


@pytest.mark.parametrize(
    ("replies", "accuracy"),
    [
        ([("longer", "short"), ("longer", "short")], 1.0),
        ([("short", "longer")], 0.0),
        ([("same", "size"), ("longer", "short")], 0.75),
    ],
)
def test_longer_is_better_counts_ties_as_half(replies: list[tuple[str, str]], accuracy: float):
    rows = [words(row(i, *pair)) for i, pair in enumerate(replies)]
    assert report(rows, max_length=64)["longer_is_better"] == accuracy


def test_count_is_exact_where_lines_are_cut():
    found = report((words(row(i, "same", "same")) for i in range(250)), max_length=64)
    assert found["findings"]["identical"]["count"] == 250
    assert found["findings"]["identical"]["lines"] == list(range(100))


def test_lengths_are_counted_in_tokens():
    rows = [words(row(i, "x" * n, "y")) for i, n in enumerate([10, 20, 30, 400])]
    tokens = report(rows, max_length=64)["tokens"]
    assert tokens["prompt"]["max"] == 3
    chosen = tokens["chosen"]
    assert (chosen["min"], chosen["p50"], chosen["p99"], chosen["max"]) == (13, 23, 403, 403)
    assert chosen["mean"] == pytest.approx(118)
    bins = {b["up_to"]: b["count"] for b in chosen["histogram"] if b["count"]}
    assert bins == {16: 1, 32: 1, 64: 1, 512: 1}


def test_empty_dataset_has_a_report():
    found = report([], max_length=64)
    assert (found["rows"], found["longer_is_better"]) == (0, None)
    assert json.dumps(found)


_ids = st.lists(st.integers(0, 2), max_size=6)


@given(ours=_ids, theirs=_ids)
def test_shared_prefix_is_the_longest(ours: list[int], theirs: list[int]):
    n = shared_prefix(np.array(ours), np.array(theirs))
    assert ours[:n] == theirs[:n]
    assert n == min(len(ours), len(theirs)) or ours[n] != theirs[n]


def test_real_tokenizer_reports_what_its_template_refuses(tmp_path: Path):
    make_checkpoint(tmp_path / "base", "llama")
    strict = CHAT_TEMPLATE.replace(
        "{% for",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for",
        1,
    )
    plan = TokenizationPlan(
        max_length=40,
        overlong="drop",
        chat_template=strict,
        append_eos=False,
        pad_token="<pad>",
        pad_token_id=0,
    )
    tokenizer = PairTokenizer(tmp_path / "base", plan, "conversational")

    def said(*contents: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in contents]

    rows = [
        row(1, said(("assistant", "yes")), said(("assistant", "no")), said(("user", "really?"))),
        row(2, said(("assistant", "yes")), said(("assistant", "no")), said(("system", "be nice"))),
        row(3, said(("assistant", "a<|im_end|>b")), said(("assistant", "")), said(("user", "q"))),
        row(4, said(("assistant", "long " * 60)), said(("assistant", "b")), said(("user", "r"))),
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    survey = DatasetReportBuilder(plan.max_length)
    for name, add in (("training", survey.add), ("eval", survey.add_held_out)):
        for pair in tokenized_rows(PairFile(file), tokenizer, partial(survey.refuse, name)):
            add(pair)
    found = survey.document()
    assert found["rows"] == 3
    invalid = [(r["dataset"], r["line"]) for r in found["invalid"]["rows"]]
    assert invalid == [("training", 2), ("eval", 2)]
    assert "no system" in found["invalid"]["rows"][0]["error"]
    assert lines(found) == {
        "overlong": [4],
        "empty": [3],
        "special_tokens": [3],
        "leaked": [1, 3, 4],
    }
    assert json.dumps(found)
