"""Rendered texts get the ids of training, even if a client changed their start or end.

verl removes the BOS token, others add a second one, and most omit the tokens that close the reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, PreTrainedTokenizerFast

from app.domain.plan import TokenizationPlan, TrainingPlan
from app.domain.scoring import ScoreItem
from tests.model_factories.pairs import WORDS
from tests.model_factories.tiny_models import CHATML, SPECIAL
from worker.reward_model.reply_tokenizer import ReplyTokenizer

BOS, EOS, END = "<s>", "<eos>", "<|im_end|>"
PROMPT, REPLY = "please tell me about tea ?", "the answer about tea is kind ."
#: Closes a turn with EOS, as Llama 2's template does.
EOS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }} : {{ message.content }} "
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and the texts that training renders with it."""

    is_chat: bool
    #: Template of the tokens that the tokenizer adds to a text: "$A", "<s> $A" …
    adds: str = "$A"
    template: str = CHATML
    append_eos: bool = False
    has_bos_token: bool = True
    #: Tokens of a text in training.
    bos_count: int = 0
    ends_with: str = "."


KINDS: dict[str, Kind] = {
    "chat, the template has BOS, the tokenizer adds it too": Kind(
        is_chat=True, adds=f"{BOS} $A", template="{{ bos_token }}" + CHATML, bos_count=1,
        ends_with=END,
    ),
    "chat, the template has BOS, the tokenizer adds none": Kind(
        is_chat=True, template="{{ bos_token }}" + CHATML, bos_count=1, ends_with=END,
    ),
    "chat, the template has none, the tokenizer adds it": Kind(
        is_chat=True, adds=f"{BOS} $A", ends_with=END,
    ),
    "chat, no BOS token": Kind(is_chat=True, has_bos_token=False, ends_with=END),
    "chat, EOS ends the reply": Kind(
        is_chat=True, adds=f"{BOS} $A", template=EOS_TEMPLATE, bos_count=1, ends_with=EOS,
    ),
    "text, the tokenizer adds BOS": Kind(is_chat=False, adds=f"{BOS} $A", bos_count=1),
    "text, the tokenizer adds BOS, training EOS": Kind(
        is_chat=False, adds=f"{BOS} $A", append_eos=True, bos_count=1, ends_with=EOS,
    ),
    "text, the tokenizer adds BOS and EOS": Kind(
        is_chat=False, adds=f"{BOS} $A {EOS}", bos_count=1, ends_with=EOS,
    ),
    "text, the tokenizer adds none, training EOS": Kind(
        is_chat=False, append_eos=True, ends_with=EOS
    ),
    "text, nothing is added": Kind(is_chat=False),
}  # fmt: skip


def make(directory: Path, kind: Kind) -> ReplyTokenizer:
    """Return the tokenizer of a kind, as a scorer has it."""
    words = [*SPECIAL, "<unk>", BOS, *WORDS]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=kind.adds, special_tokens=[(token, vocabulary[token]) for token in (BOS, EOS)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=EOS,
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", END],
        chat_template=kind.template,
        **({"bos_token": BOS} if kind.has_bos_token else {}),
    ).save_pretrained(directory)
    LlamaConfig(vocab_size=len(words)).save_pretrained(directory)
    plan: Any = SimpleNamespace(
        tokenization=TokenizationPlan(
            max_length=256,
            overlong="drop",
            chat_template=kind.template if kind.is_chat else None,
            append_eos=kind.append_eos,
            text_format=None if kind.is_chat else "raw",
            pad_token="<pad>",
            pad_token_id=0,
        ),
        data=SimpleNamespace(format="conversational" if kind.is_chat else "text"),
    )
    return ReplyTokenizer(directory, cast(TrainingPlan, plan))


def trained_text(tokenizer: ReplyTokenizer, kind: Kind) -> str:
    """Return the text of prompt and reply as training renders it."""
    row: dict[str, Any] = {"prompt": f"{PROMPT} ", "replies": [{"reply": REPLY}]}
    return tokenizer._pairs.render(row)[0]


def variants(text: str, kind: Kind) -> dict[str, str]:
    """Return the variants of a text that clients send."""
    end = text.rpartition(REPLY)[2]
    without_bos = text.removeprefix(BOS)
    found = {
        "as it was": text,
        "BOS taken off": without_bos,
        "end taken off": text.removesuffix(end),
        "white space at the end taken off": text.rstrip(),
        "BOS and end taken off": without_bos.removesuffix(end),
    }
    if kind.bos_count:
        found["a second BOS"] = f"{BOS}{BOS}{without_bos}"
    return found


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_those_of_training(name: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    kind = KINDS[name]
    tokenizer = make(tmp_path, kind)
    text = trained_text(tokenizer, kind)
    (expected,) = tokenizer.encode_rendered([text])
    vocabulary = tokenizer._pairs.tokenizer.get_vocab()
    shown = tokenizer._pairs.tokenizer.convert_ids_to_tokens(expected)
    # Check the reference itself against the table.
    assert shown.count(BOS) == kind.bos_count
    assert (shown[0] == BOS) == bool(kind.bos_count)
    assert shown[-1] == kind.ends_with
    assert shown.count(EOS) == int(kind.ends_with == EOS)
    assert expected[-1] == vocabulary[kind.ends_with]
    for what, variant in variants(text, kind).items():
        with subtests.test(what):
            assert tokenizer.encode(ScoreItem(text=variant)) == [expected]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_chat])
def test_parts_of_a_templated_text_are_joined_as_they_are(name: str, tmp_path: Path) -> None:
    """slime sends the prompt with its template and the bare reply."""
    kind = KINDS[name]
    tokenizer = make(tmp_path, kind)
    text = trained_text(tokenizer, kind)
    (expected,) = tokenizer.encode_rendered([text])
    prompt = text.partition(REPLY)[0]
    for given in {prompt, prompt.removeprefix(BOS)}:
        item = ScoreItem(prompt=given, responses=[REPLY], may_be_templated=True)
        if not tokenizer._is_templated(given):  # plain text of a template without special tokens
            continue
        assert tokenizer.encode(item) == [expected]
    plain = ScoreItem(prompt=PROMPT, responses=[REPLY], may_be_templated=True)
    assert tokenizer.encode(plain) == [expected]


@pytest.mark.parametrize("name", KINDS)
def test_left_truncation_keeps_the_start_as_training_does(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    tokenizer = make(tmp_path, kind)
    (ids,) = tokenizer.encode_rendered([trained_text(tokenizer, kind)])
    assert len(ids) > 6
    start = ids[: kind.bos_count]
    assert tokenizer.truncated(ids, 6, "left") == [*start, *ids[-(6 - kind.bos_count) :]]
    assert tokenizer.truncated(ids, 1, "left") == ids[-1:]
    assert tokenizer.truncated(ids, 6, "right") == ids[:6]
    assert tokenizer.truncated(ids, len(ids), "left") == ids
