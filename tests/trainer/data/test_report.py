"""The dataset report: findings by line number, lengths and invalid rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.plan import TokenizationPlan
from app.domain.rows import replies_of
from tests.model_factories.architectures import CHAT_TEMPLATE, make_base_model
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.truncation import common_prefix_length
from worker.trainer.data.pair_records import PAIR, pair_records
from worker.trainer.data.report import DatasetReportBuilder
from worker.trainer.data.tokenized_file import PairBlock, PairFile, tokenize_file


def row(line: int, chosen: Any, rejected: Any, prompt: Any = "q: ", **more: Any) -> Any:
    fields = {"line": line, "chosen": chosen, "rejected": rejected, **more}
    return fields if prompt is None else {**fields, "prompt": prompt}


class _Characters:
    """Stands for a tokenizer of texts with one token per character, in lower case."""

    def encode(self, text: str) -> np.ndarray:
        return np.array([ord(c.lower()) for c in text], dtype=np.int32)

    def prepared(self, row: Any) -> Any:
        return row

    def has_special_tokens(self, row: Any) -> bool:
        return "<|" in row["chosen"]

    def joins_words(self, _row: Any) -> bool:
        return False


def block_of(rows: Iterable[Any]) -> PairBlock:
    tokenizer: Any = _Characters()
    records, lengths = [], []
    for fields in rows:
        ids = [tokenizer.encode(fields.get("prompt", "") + reply) for reply in replies_of(fields)]
        records.append(pair_records(fields, ids, tokenizer, []))
        lengths.append([len(each) for each in ids])
    chosen, rejected = np.array(lengths, dtype=np.int64).reshape(-1, 2).T
    return PairBlock(0, np.concatenate([np.empty(0, dtype=PAIR), *records]), chosen, rejected)


def add(to: Callable[..., None], block: PairBlock, max_length: int) -> None:
    to(block, np.maximum(block.chosen_lengths, block.rejected_lengths) <= max_length)


def all_drawn(builder: DatasetReportBuilder) -> Callable[..., None]:
    return lambda block, is_used: builder.add_training(block, np.ones_like(is_used), is_used)


def report(
    rows: Iterable[Any], *, max_length: int, eval_rows: Iterable[Any] = ()
) -> dict[str, Any]:
    builder = DatasetReportBuilder(max_length)
    training = list(rows)
    for some in (training[:4], training[4:]):  # findings may be across blocks
        add(all_drawn(builder), block_of(some), max_length)
    add(builder.add_eval, block_of(eval_rows), max_length)
    return builder.build()


def lines(found: dict[str, Any]) -> dict[str, list[int]]:
    return {name: f["lines"] for name, f in found["findings"].items() if f["count"]}


def test_every_finding_lists_its_lines():
    rows = [
        row(1, "good", "bad"),
        row(2, "good", "bad"),
        row(3, "bad", "good"),
        row(4, "same", "same"),
        row(5, "Case", "case"),
        row(6, "x" * 20 + "a", "x" * 20 + "b"),
        row(7, " ", "something"),
        row(8, "a<|im_end|>", "b"),
        row(9, "good", "bad", prompt="another: "),
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
    train = [row(1, "a", "b", "one "), row(2, "a", "b", "two ")]
    held_out = [row(1, "c", "d", "three "), row(2, "c", "d", "two ")]
    found = report(train, max_length=64, eval_rows=held_out)
    assert lines(found) == {"leaked": [2]}
    assert (found["rows"], found["eval_rows"], found["prompts"]) == (2, 2, 2)


def test_row_that_is_not_trained_on_or_not_evaluated_leaks_nothing():
    train = [row(1, "a" * 99, "b", "one "), row(2, "a", "b", "two ")]
    held_out = [row(1, "c", "d", "one "), row(2, "c" * 99, "d", "two ")]
    found = report(train, max_length=64, eval_rows=held_out)
    assert found["findings"]["leaked"]["count"] == 0


def test_rows_without_a_prompt_do_not_leak_into_each_other():
    train = [row(1, "one", "two", None), row(2, "three", "four", None)]
    held_out = [row(1, "five", "six", None)]
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
    rows = [row(i, *pair) for i, pair in enumerate(replies)]
    assert report(rows, max_length=64)["longer_is_better"] == accuracy


def test_count_is_exact_when_the_list_of_lines_is_cut():
    found = report((row(i, "same", "same") for i in range(250)), max_length=64)
    assert found["findings"]["identical"]["count"] == 250
    assert found["findings"]["identical"]["lines"] == list(range(100))


def test_lengths_are_counted_in_tokens():
    rows = [row(i, "x" * n, "y") for i, n in enumerate([10, 20, 30, 400])]
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
    for name, to in (("training", all_drawn(builder)), ("eval", builder.add_eval)):
        on_invalid = partial(builder.add_invalid_row, name)
        for block in tokenize_file(PairFile(file), tokenizer, on_invalid).blocks():
            add(to, block, 1000)
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
