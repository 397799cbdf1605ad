"""The same pairs give the same token ids in every shape of upload."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.datasets.shapes.table import SHAPES
from app.domain.text_format import DataForm
from tests.datasets.test_shapes import WRITERS, Drawn, read, texts, unhurried
from tests.model_factories.orders import TinyBase, make_plan
from tests.model_factories.pairs import BAD, GOOD, TOPICS, make_pairs, write_rows
from tests.model_factories.tiny_models import CHATML, SPECIAL
from tests.model_factories.tokenized import make_pair_tokenizer
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


# --- generated pairs with system texts and tools --------------------------------------------------

TEMPLATE = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML


@dataclass(frozen=True)
class Rich(Drawn):
    """A pair with parts that only messages and a template can represent."""

    system: str | None
    tools: list[dict[str, Any]]


def tool(description: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}}
    named = {"name": "look_up", "description": description, "parameters": parameters}
    return {"type": "function", "function": named}


rich = st.lists(
    st.builds(
        lambda p, g, b, system, tools: Rich(f"P{p}", f"G{g}", f"B{b}", system, tools),
        texts,
        texts,
        texts,
        st.none() | texts,
        st.lists(st.builds(tool, texts), max_size=2),
    ),
    min_size=1,
    max_size=4,
)


def written(name: str, pair: Rich) -> dict[str, Any]:
    """Return the pair in a shape, with its system text and tools if the shape has them."""
    row = WRITERS[name](pair)
    (shape,) = (shape for shape in SHAPES if shape.name == name.partition(",")[0])
    if shape.name == "stored_ranked":  # stored rows are all texts or all messages
        row["prompt"] = [pair.user]
        for reply in row["replies"]:
            reply["reply"] = [pair.say(reply["reply"])]
    if pair.system is not None:
        system = {"role": "system", "content": pair.system}
        if shape.parts.system:
            row["system"] = pair.system
        elif shape.name == "openai_preference":
            row["input"]["messages"].insert(0, system)
        else:
            row["prompt"].insert(0, system)
    if pair.tools:
        (row["input"] if shape.name == "openai_preference" else row)["tools"] = pair.tools
    return row


@pytest.fixture(scope="module")
def byte_tokenizer(llama: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    """Return a tokenizer of bytes, whose ids differ for different texts."""
    directory = tmp_path_factory.mktemp("bytes") / "base"
    shutil.copytree(llama.directory, directory)
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    ).save_pretrained(directory)
    base = TinyBase(directory, llama.facts, llama.files)
    return make_pair_tokenizer(base, make_pairs(1), chat_template=TEMPLATE, from_file=True)


def ids_of(name: str, pairs: list[Rich], tokenizer: PairTokenizer) -> list[Any]:
    rows, _ = read([written(name, pair) for pair in pairs])
    return [(row["line"], tokenizer.encode(tokenizer.render(row))) for row in rows]


@pytest.mark.parametrize("name", WRITERS)
@settings(unhurried, max_examples=15)
@given(rich)
def test_generated_pairs_give_the_same_token_ids_in_every_shape(
    byte_tokenizer: PairTokenizer, name: str, pairs: list[Rich]
) -> None:
    expected = ids_of("pairs, messages", pairs, byte_tokenizer)
    for (_, ids), pair in zip(expected, pairs, strict=True):
        decode = partial(byte_tokenizer.tokenizer.decode, clean_up_tokenization_spaces=False)
        said = [decode(each) for each in ids]
        for text, reply in zip(said, (pair.good, pair.bad), strict=True):
            assert pair.prompt in text
            assert reply in text
            assert (pair.system or "") in text
            assert text.count("look_up") >= len(pair.tools)
    assert ids_of(name, pairs, byte_tokenizer) == expected
