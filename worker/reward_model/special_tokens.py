"""Special tokens of a base model's tokenizer: which can pad, which surround a text."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: Names of tokens that can pad, most suitable class first. Only one class is offered.
_SPARE_TOKEN_CLASSES = (
    re.compile(r"^[<\[]\|?(finetune_right_)?pad(ding)?(_id|_token)?\|?[>\]]$", re.IGNORECASE),
    re.compile(
        r"^[<\[]\|?_*(reserved|unused|extra|dummy)_*(special_)?(token)?s?_*\d*\|?[>\]]$",
        re.IGNORECASE,
    ),
    re.compile(r"^<\|endoftext\|>$"),
)
_MAX_SPARE_TOKENS = 8


def spare_pad_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    vocab_rows: int,
    chat_template: str | None,
    model_dir: Path,
) -> dict[str, int]:
    """Find tokens that can pad although the tokenizer names no pad token: token → id, by id.

    A spare token has an embedding row and no meaning to the model: its name says padding, reserved
    or unused, or it ends a text in other models only. It is not an EOS of the tokenizer, the config
    or the generation config, not another named special token, and does not occur in the chat
    template. The reward is read at the last token that is not padding, so a pad token that can end
    a text would move the score.
    """
    vocabulary = tokenizer.get_vocab()
    eos_ids = eos_token_ids(config, model_dir) | {tokenizer.eos_token_id}
    named = {
        getattr(tokenizer, f"{name}_token", None) for name in ("bos", "unk", "sep", "cls", "mask")
    }
    free = {
        token: token_id
        for token, token_id in vocabulary.items()
        if 0 <= token_id < vocab_rows
        and token_id not in eos_ids
        and token not in named
        and token not in (chat_template or "")
    }
    for pattern in _SPARE_TOKEN_CLASSES:
        if found := sorted((i, t) for t, i in free.items() if pattern.match(t)):
            return {token: token_id for token_id, token in found[:_MAX_SPARE_TOKENS]}
    return {}


def tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return what the tokenizer adds before and after a text, as text: ("[CLS]", "[SEP]").

    Both are empty when writing them into the text does not give the ids that the tokenizer gives.
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


def eos_token_ids(config: PreTrainedConfig, model_dir: Path) -> set[int]:
    """Return every EOS id that the config or the generation config names."""
    ids = _as_ids(getattr(config.get_text_config(), "eos_token_id", None))
    generation = model_dir / "generation_config.json"
    if generation.is_file():
        ids |= _as_ids(json.loads(generation.read_text("utf-8")).get("eos_token_id"))
    return ids


def _as_ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int)}
