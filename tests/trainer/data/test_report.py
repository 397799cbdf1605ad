"""The dataset report: findings by line number, lengths and invalid rows."""

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
from tests.model_factories.architectures import CHAT_TEMPLATE, make_base_model
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.truncation import common_prefix_length
from worker.trainer.data.report import DatasetReportBuilder
from worker.trainer.data.tokenized_rows import PairFile, TokenizedRow, tokenized_rows


def row(line: int, chosen: Any, rejected: Any, prompt: Any = "q: ", **more: Any) -> Any:
    fields = {"line": line, "chosen": chosen, "rejected": rejected, **more}
    return fields if prompt is None else {**fields, "prompt": prompt}


def words(fields: Any, **more: Any) -> TokenizedRow:
    """Return a row with one token per character, in lower case as in an uncased vocabulary."""
    ids = [
        [ord(c.lower()) for c in fields.get("prompt", "") + fields[r]]
        for r in ("chosen", "rejected")
    ]
    return TokenizedRow(fields, *map(np.array, ids), **more)


def report(
    rows: Iterable[TokenizedRow], *, max_length: int, eval_rows: Iterable[TokenizedRow] = ()
) -> dict[str, Any]:
    builder = DatasetReportBuilder(max_length)
    for found in rows:
        builder.add_training_row(found, is_used=len(found.chosen_ids) <= max_length)
    for found in eval_rows:
        builder.add_eval_row(found, is_used=len(found.chosen_ids) <= max_length)
    return builder.build()


def lines(found: dict[str, Any]) -> dict[str, list[int]]:
    return {name: f["lines"] for name, f in found["findings"].items() if f["count"]}


def test_every_finding_lists_its_lines():
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
        "overlong": [6],
        "empty": [7],
        "special_tokens": [8],
    }


def test_prompt_in_both_datasets_is_a_leak():
    train = [words(row(1, "a", "b", "one ")), words(row(2, "a", "b", "two "))]
    held_out = [words(row(1, "c", "d", "three ")), words(row(2, "c", "d", "two "))]
    found = report(train, max_length=64, eval_rows=held_out)
    assert lines(found) == {"leaked": [2]}
    assert (found["rows"], found["eval_rows"], found["prompts"]) == (2, 2, 2)


def test_row_that_is_not_trained_on_or_not_evaluated_leaks_nothing():
    train = [words(row(1, "a" * 99, "b", "one ")), words(row(2, "a", "b", "two "))]
    held_out = [words(row(1, "c", "d", "one ")), words(row(2, "c" * 99, "d", "two "))]
    found = report(train, max_length=64, eval_rows=held_out)
    assert found["findings"]["leaked"]["count"] == 0


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


def test_count_is_exact_when_the_list_of_lines_is_cut():
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
def test_common_prefix_is_the_longest(ours: list[int], theirs: list[int]):
    n = common_prefix_length(np.array(ours), np.array(theirs))
    assert ours[:n] == theirs[:n]
    assert n == min(len(ours), len(theirs)) or ours[n] != theirs[n]


def conversation(line: int, prompt: tuple[str, str], chosen: str, rejected: str) -> dict[str, Any]:
    role, content = prompt
    replies = ([{"role": "assistant", "content": reply}] for reply in (chosen, rejected))
    return row(line, *replies, prompt=[{"role": role, "content": content}])


def test_rows_that_the_template_refuses_are_reported_as_invalid(tmp_path: Path):
    make_base_model(tmp_path / "base", "llama")
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

    rows = [
        conversation(1, ("user", "really?"), "yes", "no"),
        conversation(2, ("system", "be nice"), "yes", "no"),
        conversation(3, ("user", "q"), "a<|im_end|>b", ""),
        conversation(4, ("user", "r"), "long " * 60, "b"),
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    builder = DatasetReportBuilder(plan.max_length)
    for name, add in (("training", builder.add_training_row), ("eval", builder.add_eval_row)):
        on_invalid = partial(builder.add_invalid_row, name)
        for pair in tokenized_rows(PairFile(file), tokenizer, on_invalid):
            add(pair, is_used=True)
    found = builder.build()
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
