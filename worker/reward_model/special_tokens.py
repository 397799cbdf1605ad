"""Special tokens of a base model's tokenizer: tokens for padding, and tokens around a text."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from app.domain.templates import with_fixed_date
from worker.reward_model.chat_template import ChatRenderer
from worker.reward_model.errors import unsupported_model

#: Names of tokens for padding, most suitable class first. Only one class is returned.
_SPARE_TOKEN_CLASSES = (
    re.compile(
        r"^[<\[][|｜]?[_▁]*(finetune_right_)?pad(ding)?(_id|_token)?[_▁]*[|｜]?[>\]]$", re.I
    ),
    re.compile(
        r"^[<\[]\|?_*(reserved|unused|extra|dummy|placeholder|control)_*(special_)?(token)?s?"
        r"(_id)?_*\d*\|?[>\]]$|^>>unused_\d+<<$",
        re.I,
    ),
    re.compile(r"^<\|endoftext\|>$"),
)
_MAX_SPARE_TOKENS = 8
#: Limit on the special tokens in the facts about a model.
_MAX_SPECIAL_TOKENS = 1024
#: Token that is added if the embedding has a row without a token.
ADDED_PAD_TOKEN = "<|pad|>"  # noqa: S105 - no password
#: Text that a tokenizer without byte fallback cannot encode: private-use and unassigned characters.
_UNKNOWN_TEXT = "\ue000\U000e0fff \ufdd0"


def spare_pad_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    vocab_rows: int,
    chat_template: str | None,
    model_dir: Path,
) -> dict[str, int]:
    """Find tokens for padding if the tokenizer has no pad token; return ids by token.

    A spare token has an embedding row and no meaning for the model. It is not an EOS token of the
    tokenizer, the config or the generation config, not another named special token, and does not
    occur in the chat template. The reward is read at the last token that is not padding, so a pad
    token that can end a text would move the score. The first class that is not empty is returned:

    1. a name for padding; 2. a name such as reserved or unused; 3. a token that ends texts only in
    other models; 4. the unknown token of a tokenizer with byte fallback, which never needs it; 5. a
    new token, if the embedding has a row without a token; 6. any unknown token.
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
        and token not in (chat_template or "")
    }
    for pattern in _SPARE_TOKEN_CLASSES:
        found = sorted((i, t) for t, i in free.items() if pattern.match(t) and t not in named)
        if found:
            return {token: token_id for token_id, token in found[:_MAX_SPARE_TOKENS]}
    unknown = {t: i for t, i in free.items() if t == tokenizer.unk_token}
    if unknown and not _is_needed(tokenizer, next(iter(unknown.values()))):
        return unknown
    added = copy.deepcopy(tokenizer)
    token_id = add_pad_token(added, ADDED_PAD_TOKEN)
    # A vocabulary with unused ids gives a new token the id of another one.
    is_new = ADDED_PAD_TOKEN not in vocabulary and token_id not in vocabulary.values()
    if is_new and token_id < vocab_rows:
        return {ADDED_PAD_TOKEN: token_id}
    return unknown


def add_pad_token(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Make ``token`` the pad token, add it if the tokenizer lacks it, and return its id."""
    if token in tokenizer.get_vocab():
        tokenizer.pad_token = token
    else:
        tokenizer.add_special_tokens({"pad_token": token})
    return int(tokenizer.pad_token_id)


def special_tokens(tokenizer: PreTrainedTokenizerBase, vocab_rows: int) -> dict[str, int]:
    """Return the ids of the tokenizer's special tokens that have an embedding row, by token."""
    found = sorted(
        (token_id, token.content)
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special and token_id < vocab_rows
    )
    return {token: token_id for token_id, token in found[:_MAX_SPECIAL_TOKENS]}


def conversation_ids(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> list[int]:
    """Return the tokens of a short conversation; none if the template cannot render it."""
    if chat_template is None:
        return []
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = with_fixed_date(chat_template)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    try:
        (text,) = ChatRenderer(tokenizer).render([messages])
    except Exception:  # noqa: BLE001 - a template may raise anything; every pair is rendered later
        return []
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def without_rows(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], vocab_rows: int
) -> dict[str, int]:
    """Return those of ``ids`` that have no row of the embedding, by token."""
    beyond = sorted({i for i in ids if i >= vocab_rows})
    return dict(zip(tokenizer.convert_ids_to_tokens(beyond), beyond, strict=True))


def _is_needed(tokenizer: PreTrainedTokenizerBase, unknown: int) -> bool:
    return unknown in tokenizer(_UNKNOWN_TEXT, add_special_tokens=False)["input_ids"]


def tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the tokens that the tokenizer adds before and after a text: ("[CLS]", "[SEP]").

    Both are empty if encoding them as a part of the text does not give the same ids.
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
    """Return all EOS ids of the config and the generation config.

    Raises:
        TrainerError: model_unsupported if the generation config is damaged.
    """
    ids = _as_ids(getattr(config.get_text_config(), "eos_token_id", None))
    generation = model_dir / "generation_config.json"
    if generation.is_file():
        try:
            ids |= _as_ids(json.loads(generation.read_bytes()).get("eos_token_id"))
        except (ValueError, RecursionError, AttributeError) as error:
            raise unsupported_model(
                f"{generation.name} is damaged, which names EOS tokens; download it again"
            ) from error
    return ids


def _as_ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int)}
