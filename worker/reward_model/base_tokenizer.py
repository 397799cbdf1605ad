"""Load a base model's tokenizer so that it splits text as its tokenizer.json does.

transformers rebuilds many tokenizers from the vocabulary alone and applies its own pre-tokenisation
rules for the model family. A fine-tuned model may use other rules in its tokenizer.json: some Qwen
derivatives read up to three digits at once. Training with the rebuilt tokenizer would feed such a
model tokens that it was not trained on: "2024" in four pieces instead of two (transformers issue
45920).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from worker.reward_model.model_config import load_config

TOKENIZER_FILE = "tokenizer.json"
#: Text that pre-tokenisers split differently: numbers, spaces, lines, apostrophes, other scripts.
_SAMPLE_TEXTS = (
    "In 2024 it was 3.14159, not 1234567 or 10%.",
    "  Two  spaces,\ta tab,\n\n\nlines \n and trailing ones   \n",
    "It's what I'D call don't-care; they've (really) said: «yes»!?...",
    "naïve cafe\u0301 ﬁne Ｆｕｌｌ Straße İstanbul",
    "你好，世界。こんにちは 안녕하세요 Привет مرحبا नमस्ते 🙂👍🏽",
    "def f(x):\n    return x**2  # 100_000\n\t</div>",
)
_NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_MAX_SAMPLED_SPECIAL_TOKENS = 16


def load_base_tokenizer(model_dir: str | Path, *, from_file: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer that transformers builds, or with ``from_file`` that of tokenizer.json."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(model_dir),
        config=load_config(model_dir),
        local_files_only=True,
        trust_remote_code=False,
    )
    if not from_file:
        return tokenizer
    vocabulary = _tokenizer_file(model_dir).get_vocab()
    named = {f"{name}_token": getattr(tokenizer, f"{name}_token", None) for name in _NAMED_TOKENS}
    of_file: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        str(model_dir),
        local_files_only=True,
        # tokenizer_config.json may set it; special tokens such as EOS would be split into letters.
        split_special_tokens=False,
        **{name: token for name, token in named.items() if token in vocabulary},
    )
    return of_file


def differs_from_file(tokenizer: PreTrainedTokenizerBase, model_dir: str | Path) -> bool:
    """Return whether the tokenizer gives other ids than tokenizer.json; False without the file."""
    if not (Path(model_dir) / TOKENIZER_FILE).is_file():
        return False
    file = _tokenizer_file(model_dir)
    return any(
        tokenizer(text, add_special_tokens=False)["input_ids"]
        != file.encode(text, add_special_tokens=False).ids
        for text in _sample_texts(tokenizer)
    )


def _sample_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield plain texts, then texts with special tokens, which can change how a word is split."""
    yield from _SAMPLE_TEXTS
    added = tokenizer.added_tokens_decoder.values()
    special = (token.content for token in added if token.special)
    for token in islice(special, _MAX_SAMPLED_SPECIAL_TOKENS):
        yield f"{token}word {token} word{token}"


def _tokenizer_file(model_dir: str | Path) -> Tokenizer:
    file: Tokenizer = Tokenizer.from_file(str(Path(model_dir) / TOKENIZER_FILE))
    file.no_truncation()
    file.no_padding()
    return file
