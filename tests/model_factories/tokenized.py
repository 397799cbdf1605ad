"""Pairs that are tokenised for a tiny base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.domain.plan import TokenizationPlan
from tests.model_factories.orders import TinyBase, make_plan
from tests.model_factories.pairs import write_rows
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import TokenizedPairs, tokenize_pairs
from worker.trainer.data.tokenized_file import PairFile


def make_pair_tokenizer(base: TinyBase, rows: list[dict[str, Any]], **plan: Any) -> PairTokenizer:
    """Return the tokenizer of a plan for ``rows``, with changes to its tokenisation."""
    compiled = make_plan(base.facts, rows)
    tokenization = TokenizationPlan.model_validate(compiled.tokenization.model_dump() | plan)
    return PairTokenizer(base.directory, tokenization, compiled.data.format)


def tokenize_rows(
    base: TinyBase, rows: list[dict[str, Any]], directory: Path, **plan: Any
) -> TokenizedPairs:
    """Write ``rows`` to a file in ``directory`` and tokenise it."""
    file = PairFile(write_rows(directory / "rows.jsonl", rows))
    return tokenize_pairs(file, make_pair_tokenizer(base, rows, **plan))
