"""The same pairs give the same token ids, whatever shape they were uploaded in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.domain.text_format import DataForm
from tests.datasets.test_shapes import WRITERS, Drawn, read
from tests.model_factories.orders import TinyBase, make_plan
from tests.model_factories.pairs import BAD, GOOD, TOPICS, write_rows
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import tokenize_pairs
from worker.trainer.data.tokenized_file import PairFile

PAIRS = [
    Drawn(f"please tell me about {topic} ?", f"the answer is {good} .", f"a {bad} answer .")
    for topic, good, bad in zip(TOPICS[:4], GOOD, BAD, strict=False)
]


def token_ids(base: TinyBase, folder: Path, shape: str) -> list[Any]:
    rows, summary = read([WRITERS[shape](pair) for pair in PAIRS])
    form = DataForm.of(summary.model_dump(mode="json"))
    plan = make_plan(base.facts, rows, form=form)
    tokenizer = PairTokenizer(base.directory, plan.tokenization, plan.data.format)
    pairs = tokenize_pairs(PairFile(write_rows(folder / "rows.jsonl", rows)), tokenizer).pairs
    return [(pair.line, pair.chosen.tolist(), pair.rejected.tolist()) for pair in pairs]


@pytest.mark.parametrize("shape", WRITERS)
def test_every_shape_gives_the_same_token_ids(llama: TinyBase, tmp_path: Path, shape: str) -> None:
    expected = token_ids(llama, tmp_path, "pairs, messages")
    assert len(expected) == len(PAIRS)
    found = token_ids(llama, tmp_path, shape)
    assert found == expected
