"""Every model of the shipped catalogue, as a tiny model of its shape, can be planned.

A shape consists of the rows of the embedding, tokens without a row, the pad and EOS tokens, and the
end of the chat template. The model hub is not used. ``REAL_ROWS`` are confirmed by the installed
libraries, whose configuration classes have the sizes of these models as defaults;
docs/base-models.md names the sources of the other values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast

from app.base_models.catalogue import load_catalogue
from tests.model_factories.architectures import make_base_model
from tests.model_factories.orders import facts_of, make_plan
from tests.model_factories.pairs import WORDS, make_pairs


@dataclass(frozen=True)
class Shape:
    """Tokens of a model: ``special`` in the order of their ids, then ``named`` roles of them."""

    entries: str
    architecture: str
    special: str
    named: dict[str, str]
    end: str | None  # of every message in the chat template; None without a template
    pads: tuple[str, str]  # the expected pad tokens of texts and of conversations
    spare_rows: int = 8  # of the embedding, beyond the tokenizer; negative: tokens without a row
    sizes: dict[str, Any] = field(default_factory=dict)
    ends: str = ""  # tokens in eos_token_id of config.json, if there are several


#: Tokens 128000 to 128010.
_LLAMA_3 = (
    "<|begin_of_text|> <|end_of_text|> <|reserved_special_token_0|> <|reserved_special_token_1|> "
    "<|finetune_right_pad_id|> <|reserved_special_token_2|> <|start_header_id|> <|end_header_id|> "
    "<|eom_id|> <|eot_id|> <|python_tag|>"
)
SHAPES = [
    Shape(
        "smollm2-135m-instruct",
        "llama",
        "<|endoftext|> <|im_start|> <|im_end|>",
        {
            "bos": "<|im_start|>",
            "eos": "<|im_end|>",
            "unk": "<|endoftext|>",
            "pad": "<|im_end|>",
        },
        "<|im_end|>\n",
        ("<|endoftext|>", "<|endoftext|>"),
        spare_rows=0,
    ),
    Shape(
        "smollm3-3b",
        "smollm3",
        "<|begin_of_text|> <|end_of_text|> <|finetune_right_pad_id|> <|im_start|> <|im_end|>",
        {"eos": "<|im_end|>", "pad": "<|im_end|>"},
        "<|im_end|>\n",
        ("<|finetune_right_pad_id|>", "<|finetune_right_pad_id|>"),
    ),
    Shape(
        "modernbert-base",
        "modernbert",
        "[UNK] [CLS] [SEP] [PAD] [MASK] [unused0]",
        {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"},
        None,
        ("[PAD]", "[PAD]"),
        spare_rows=0,
        sizes={"eos_token_id": None, "bos_token_id": None},
    ),
    Shape(
        "qwen3-0.6b qwen3-1.7b qwen3-4b qwen3-8b",
        "qwen3",
        "<|endoftext|> <|im_start|> <|im_end|>",
        {"eos": "<|im_end|>", "pad": "<|endoftext|>"},
        "<|im_end|>\n",
        ("<|endoftext|>", "<|endoftext|>"),
    ),
    Shape(
        "llama-3.2-1b llama-3.2-3b",
        "llama",
        _LLAMA_3,
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
        None,
        ("<|finetune_right_pad_id|>", "<|finetune_right_pad_id|>"),
        spare_rows=0,
    ),
    Shape(
        "llama-3.2-1b-instruct llama-3.2-3b-instruct",
        "llama",
        _LLAMA_3,
        {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
        "<|eot_id|>",
        ("<|finetune_right_pad_id|>", "<|finetune_right_pad_id|>"),
        spare_rows=0,
        ends="<|end_of_text|> <|eom_id|> <|eot_id|>",
    ),
    Shape(
        "gemma-3-1b-it",
        "gemma3_text",
        "<pad> <eos> <bos> <unk> <unused0> <start_of_turn> <end_of_turn>",
        {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"},
        "<end_of_turn>\n",
        ("<pad>", "<pad>"),
        spare_rows=-1,
        ends="<eos> <end_of_turn>",
    ),
]
#: Entry → rows of its embedding, where the default of its configuration class confirms them. The
#: text part of Mllama is Llama 3.2.
REAL_ROWS = {
    "qwen3": 151_936,
    "smollm3": 128_256,
    "modernbert": 50_368,
    "mllama_text_model": 128_256,
}
#: Rows of the embedding of Gemma 3's text models; the image token is the first one without a row.
GEMMA_3_ROWS = 262_144


def tokenizer_of(shape: Shape) -> PreTrainedTokenizerFast:
    words = [*shape.special.split(), *WORDS, "Ċ"]
    words += ["<image_soft_token>"] * (shape.spare_rows < 0)
    unknown = shape.named.get("unk", WORDS[0])
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls" in shape.named:
        around = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=around
        )
    template = shape.end and (
        "{% for m in messages %}{{ m.role }} : {{ m.content }}" + shape.end + "{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        additional_special_tokens=shape.special.split(),
        **{f"{name}_token": token for name, token in shape.named.items()},
    )


def test_every_entry_of_the_catalogue_has_a_shape_or_is_tested_itself() -> None:
    shaped = {entry for shape in SHAPES for entry in shape.entries.split()}
    assert shaped | {"all-minilm-l6-v2"} == {entry.id for entry in load_catalogue().entries}


@pytest.mark.parametrize("name", REAL_ROWS)
def test_rows_are_those_of_the_configuration_class(name: str) -> None:
    assert AutoConfig.for_model(name).vocab_size == REAL_ROWS[name]


def test_image_token_of_gemma_3_is_beyond_the_embedding_of_its_text_models() -> None:
    assert AutoConfig.for_model("gemma3").image_token_index == GEMMA_3_ROWS


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.entries.split()[0])
def test_model_of_the_catalogue_can_be_planned(shape: Shape, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(shape)
    ids = {f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in shape.named.items()}
    sizes = {"pad_token_id": None, "bos_token_id": None, **ids}
    sizes = {
        n: i for n, i in sizes.items() if n in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    if shape.ends:
        sizes["eos_token_id"] = tokenizer.convert_tokens_to_ids(shape.ends.split())
    rows = len(tokenizer) + shape.spare_rows
    make_base_model(
        tmp_path,
        shape.architecture,
        tokenizer=tokenizer,
        **{**sizes, "vocab_size": rows, **shape.sizes},
    )
    facts = facts_of(tmp_path)
    assert (facts.vocab_rows, facts.max_token_id) == (rows, len(tokenizer) - 1)
    for text, pad in zip((True, False), shape.pads, strict=True):
        plan = make_plan(facts, make_pairs(4, text=text)).tokenization
        assert plan.pad_token == pad
        assert plan.pad_token_id < rows
        assert plan.pad_token_id != facts.eos_token_id
        assert (plan.embedding_rows is not None) == (shape.spare_rows < 0)
