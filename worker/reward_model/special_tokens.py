"""What the tokenizer of a base model can give, and which of its tokens can pad."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: Best class first; only tokens of the first class that has any are offered, eight at most.
_SPARE = (
    re.compile(r"^[<\[]\|?(finetune_right_)?pad(ding)?(_id|_token)?\|?[>\]]$", re.IGNORECASE),
    re.compile(
        r"^[<\[]\|?_*(reserved|unused|extra|dummy)_*(special_)?(token)?s?_*\d*\|?[>\]]$",
        re.IGNORECASE,
    ),
    re.compile(r"^<\|endoftext\|>$"),
)
_MOST_SPARE = 8


def spare_pad_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    vocab_rows: int,
    chat_template: str | None,
    model_dir: Path,
) -> dict[str, int]:
    """Tokens that can pad although the tokenizer names none: token → id, lowest id first.

    A spare token has an embedding row, means nothing to the model (its name says padding, reserved
    or unused; or it is an end of text that is no EOS here) and is used by nobody: it is no EOS of
    the tokenizer, the config or the generation config, no other named special token, and it does
    not stand in the chat template. The reward is read at the last token that is not padding, so a
    pad token that can end a text would move the score.
    """
    vocab = tokenizer.get_vocab()
    taken = end_token_ids(config, model_dir) | {tokenizer.eos_token_id}
    named = {
        getattr(tokenizer, f"{name}_token", None) for name in ("bos", "unk", "sep", "cls", "mask")
    }
    free = {
        token: token_id
        for token, token_id in vocab.items()
        if 0 <= token_id < vocab_rows
        and token_id not in taken
        and token not in named
        and token not in (chat_template or "")
    }
    for pattern in _SPARE:
        if found := sorted((i, t) for t, i in free.items() if pattern.match(t)):
            return {token: token_id for token_id, token in found[:_MOST_SPARE]}
    return {}


def tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the tokenizer itself puts before and after a text, as text: ("[CLS]", "[SEP]").

    Empty where writing it into the text does not give the same ids as the tokenizer's own way.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    if not bare or bare[0] not in ids:
        return "", ""
    start = ids.index(bare[0])
    before, after = ids[:start], ids[start + len(bare) :]
    prefix, suffix = ("".join(tokenizer.convert_ids_to_tokens(part)) for part in (before, after))
    written = tokenizer(f"{prefix}a{suffix}", add_special_tokens=False)["input_ids"]
    return (prefix, suffix) if written == ids else ("", "")


def end_token_ids(config: PreTrainedConfig, model_dir: Path) -> set[int]:
    """Every EOS id that the config or the generation config names."""
    ids = _as_ids(getattr(config.get_text_config(), "eos_token_id", None))
    generation = model_dir / "generation_config.json"
    if generation.is_file():
        ids |= _as_ids(json.loads(generation.read_text("utf-8")).get("eos_token_id"))
    return ids


def _as_ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int)}
