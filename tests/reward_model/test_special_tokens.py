"""Tokens that can pad although the tokenizer names no pad token (rule V23)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.model_factories.architectures import (
    EOS,
    IM_END,
    PAD,
    UNK,
    VOCAB_ROWS,
    make_base_model,
    make_tokenizer,
)
from tests.model_factories.orders import facts_of, make_text_plan
from worker.reward_model.pair_tokenizer import load_tokenizer


def _with_tokens(*tokens: str) -> Any:
    tokenizer = make_tokenizer(pad_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def test_unused_token_with_an_embedding_row_can_pad(tmp_path: Path):
    tokenizer = _with_tokens("<|reserved_special_token_1|>", "<|reserved_special_token_0|>")
    facts = facts_of(make_base_model(tmp_path, "llama", tokenizer=tokenizer))
    assert (facts.pad_token_id, facts.eos_token_id) == (EOS, EOS)
    ids = tokenizer.get_vocab()
    # "<pad>" is preferred to a reserved token, although it is not the tokenizer's pad token.
    assert facts.spare_pad_tokens == {"<pad>": PAD}
    plan = make_text_plan(facts)
    assert plan.tokenization.pad_token_id == PAD != EOS
    assert max(ids.values()) < VOCAB_ROWS


def test_reserved_tokens_can_pad_without_a_padding_token(tmp_path: Path):
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(3)]
    template = "{{ messages }}<pad><|reserved_special_token_1|>"
    tokenizer = _with_tokens(*reserved, "<|endoftext|>")
    facts = facts_of(
        make_base_model(tmp_path, "llama", tokenizer=tokenizer), chat_template=template
    )
    ids = tokenizer.get_vocab()
    assert facts.spare_pad_tokens == {t: ids[t] for t in (reserved[0], reserved[2])}


def test_second_end_of_text_can_pad_only_if_it_ends_no_generation(tmp_path: Path):
    tokenizer = _with_tokens("<|endoftext|>")
    make_base_model(tmp_path, "llama", tokenizer=tokenizer)
    token_id = tokenizer.get_vocab()["<|endoftext|>"]
    template = "{{ messages }}<pad>"
    assert facts_of(tmp_path, chat_template=template).spare_pad_tokens == {
        "<|endoftext|>": token_id
    }
    ends = {"eos_token_id": [IM_END, token_id]}
    (tmp_path / "generation_config.json").write_text(json.dumps(ends))
    # A byte-level tokenizer never needs its unknown token.
    assert facts_of(tmp_path, chat_template=template).spare_pad_tokens == {"<unk>": UNK}


def test_row_of_the_embedding_without_a_token_can_pad(tmp_path: Path):
    tokenizer = make_tokenizer(pad_token="</s>", unk_token=None)
    template = "{{ messages }}<pad>"
    make_base_model(tmp_path, "llama", tokenizer=tokenizer)
    facts = facts_of(tmp_path, chat_template=template)
    assert facts.spare_pad_tokens == {"<|pad|>": len(tokenizer)}
    plan = make_text_plan(facts).tokenization
    assert load_tokenizer(tmp_path, plan).pad_token_id == len(tokenizer) < VOCAB_ROWS
    make_base_model(tmp_path, "llama", tokenizer=tokenizer, vocab_size=len(tokenizer))
    assert facts_of(tmp_path, chat_template=template).spare_pad_tokens == {}


def test_new_token_with_the_id_of_another_one_cannot_pad(tmp_path: Path):
    words = {"</s>": 0, **{f"w{i}": 2 * i for i in range(1, 60)}}  # every second id is unused
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w1")), eos_token="</s>"
    )
    make_base_model(tmp_path, "llama", tokenizer=tokenizer)
    assert facts_of(tmp_path).spare_pad_tokens == {}


def test_last_token_of_conversations_is_found(tmp_path: Path):
    make_base_model(tmp_path, "llama")
    ends = "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    assert facts_of(tmp_path, chat_template=ends).final_token_id == EOS
    assert facts_of(tmp_path, chat_template="{{ raise_exception('no') }}").final_token_id is None


def test_token_without_an_embedding_row_cannot_pad(tmp_path: Path):
    tokenizer = _with_tokens(*(f"<|reserved_{i}|>" for i in range(20)))
    facts = facts_of(
        make_base_model(tmp_path, "llama", tokenizer=tokenizer), chat_template="{{ messages }}<pad>"
    )
    assert facts.max_token_id >= facts.vocab_rows  # V23
    assert facts.spare_pad_tokens
    assert max(facts.spare_pad_tokens.values()) < facts.vocab_rows
