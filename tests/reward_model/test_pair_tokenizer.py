"""Token ids of pairs equal those that TRL makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs, with_implicit_prompts, write_rows
from tests.model_factories.tokenized import make_pair_tokenizer, tokenize_rows
from worker.trainer.data.pairs import tokenize_pairs
from worker.trainer.data.tokenized_file import PairFile


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize(
    ("model", "text"),  # TRL cannot tokenise plain text without an EOS token, which MiniLM lacks
    [("llama", True), ("llama", False), ("minilm", False)],
)
def test_ids_equal_those_of_trl(
    model: str, tmp_path: Path, request: pytest.FixtureRequest, *, is_implicit: bool, text: bool
) -> None:
    base: TinyBase = request.getfixturevalue(model)
    rows = make_pairs(12, text=text)
    rows = with_implicit_prompts(rows) if is_implicit else rows
    if text and not is_implicit:
        rows[3]["chosen"] += "<eos>"  # it is not appended twice
    ours = make_pair_tokenizer(base, rows)
    theirs = AutoTokenizer.from_pretrained(base.directory)
    theirs.chat_template = ours.plan.chat_template
    columns = [{k: v for k, v in row.items() if k not in ("line", "slice")} for row in rows]
    args = RewardConfig(str(tmp_path), use_cpu=True, bf16=False, max_length=None)
    prepared = RewardTrainer._prepare_dataset(
        object.__new__(RewardTrainer), Dataset.from_list(columns), theirs, args, "train"
    )
    found = tokenize_pairs(PairFile(write_rows(tmp_path / "rows.jsonl", rows)), ours).pairs
    assert [pair.chosen.tolist() for pair in found] == prepared["chosen_ids"]
    assert [pair.rejected.tolist() for pair in found] == prepared["rejected_ids"]


def test_conversation_for_an_encoder_is_surrounded_by_its_special_tokens(
    minilm: TinyBase, tmp_path: Path
) -> None:
    assert minilm.facts.tokens_around == ("[CLS]", "[SEP]")
    (pair,) = tokenize_rows(minilm, make_pairs(1), tmp_path).pairs
    tokenizer = AutoTokenizer.from_pretrained(minilm.directory)
    assert tokenizer.decode(pair.chosen).startswith("[CLS] user : please tell me about")
    assert (pair.chosen[0], pair.chosen[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert list(pair.chosen).count(tokenizer.sep_token_id) == 1


def test_decoder_may_have_no_surrounding_tokens(llama: TinyBase) -> None:
    assert llama.facts.tokens_around == ("", "")
