"""The tokenizer of a checkpoint, which reads texts as its tokenizer.json does.

transformers builds many tokenizers anew from the vocabulary alone and gives them its own idea of
how their family cuts words. Where a checkpoint has another one, as fine-tuned models of the Qwen
family do that read three digits at once, the model would be trained on tokens that it does not
know: "2024" as four pieces and not as two (transformers issue 45920).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER_FILE = "tokenizer.json"
#: What tokenizers cut differently: numbers, spaces, lines, apostrophes, letters of other scripts.
_TEXTS = (
    "In 2024 it was 3.14159, not 1234567 or 10%.",
    "  Two  spaces,\ta tab,\n\n\nlines \n and trailing ones   \n",
    "It's what I'D call don't-care; they've (really) said: «yes»!?...",
    "naïve cafe\u0301 ﬁne Ｆｕｌｌ Straße İstanbul",
    "你好，世界。こんにちは 안녕하세요 Привет مرحبا नमस्ते 🙂👍🏽",
    "def f(x):\n    return x**2  # 100_000\n\t</div>",
)
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPECIAL_TRIED = 16


def load(model_dir: str | Path, *, from_file: bool) -> PreTrainedTokenizerBase:
    """What transformers makes of the checkpoint's tokenizer, or exactly its tokenizer.json."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(model_dir), local_files_only=True, trust_remote_code=False
    )
    if not from_file:
        return tokenizer
    known = _file(model_dir).get_vocab()
    named = {f"{name}_token": getattr(tokenizer, f"{name}_token", None) for name in _NAMED}
    of_file: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        str(model_dir),
        local_files_only=True,
        split_special_tokens=False,  # a setting beside the file, which would cut EOS into letters
        **{name: token for name, token in named.items() if token in known},
    )
    return of_file


def differs_from_file(tokenizer: PreTrainedTokenizerBase, model_dir: str | Path) -> bool:
    """Whether it gives other ids than ``model_dir``'s tokenizer.json; False where there is none."""
    if not (Path(model_dir) / TOKENIZER_FILE).is_file():
        return False
    file = _file(model_dir)
    return any(
        tokenizer(text, add_special_tokens=False)["input_ids"]
        != file.encode(text, add_special_tokens=False).ids
        for text in _samples(tokenizer)
    )


def _samples(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Texts alone, and after special tokens, where a word may begin otherwise."""
    yield from _TEXTS
    added = tokenizer.added_tokens_decoder.values()
    for token in islice((t.content for t in added if t.special), _SPECIAL_TRIED):
        yield f"{token}word {token} word{token}"


def _file(model_dir: str | Path) -> Tokenizer:
    file: Tokenizer = Tokenizer.from_file(str(Path(model_dir) / TOKENIZER_FILE))
    file.no_truncation()
    file.no_padding()
    return file
