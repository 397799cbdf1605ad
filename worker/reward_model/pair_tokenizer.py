"""Convert preference pairs to the token ids that TRL's RewardTrainer would compute.

Conversations are rendered with the plan's chat template and tokenised without adding special
tokens. Plain text gets an EOS token if it does not end in one, and the tokenizer's special tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.domain.lifecycle import FailureCode
from app.domain.plan import TokenizationPlan
from app.domain.rows import as_conversation, replies_of
from worker.reward_model.base_tokenizer import load_base_tokenizer
from worker.reward_model.chat_template import ChatRenderer
from worker.reward_model.errors import TrainerError
from worker.reward_model.special_tokens import add_pad_token, tokens_around

#: Number of texts that transformers encodes as well, to compare the ids.
COMPARED_TEXTS = 16
REPLIES = ("chosen", "rejected")
#: Names of a message's reasoning in chat templates.
REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
#: Version of the rendering and encoding in this module; part of the token cache's key.
TOKENS_VERSION = 1
#: Files that no tokenizer reads. Weights in other formats exceed MAX_TOKENIZER_FILE_BYTES.
_NOT_TOKENIZER_FILES = ("*.safetensors", "*.index.json", "generation_config.json")
MAX_TOKENIZER_FILE_BYTES = 256 << 20


class PairTokenizer:
    """Renders and encodes pairs as a tokenization plan prescribes."""

    def __init__(self, model_dir: str | Path, plan: TokenizationPlan, data_format: str) -> None:
        self.plan = plan
        self.is_conversational = data_format == "conversational"
        self._model_dir = Path(model_dir)
        self.tokenizer = load_tokenizer(model_dir, plan)
        self._start = tokens_around(self.tokenizer)[0]
        self._renderer = ChatRenderer(self.tokenizer)
        self._encodes_directly: bool | None = None  # None: not compared yet
        template = str(self.tokenizer.chat_template)
        self._reasoning_name = next(
            (name for name in REASONING_NAMES if re.search(rf"\b{name}\b", template)), ""
        )
        # Tokenizers recognise special tokens anywhere in a text: one in user text can end a turn.
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        self._special_texts = tuple(sorted(special))
        self._special = re.compile("|".join(map(re.escape, self._special_texts)) or r"(?!)")

    def identity(self) -> dict[str, Any]:
        """Return everything that the token ids of a text depend on."""
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self._model_dir.iterdir())
            if path.is_file()
            and path.stat().st_size <= MAX_TOKENIZER_FILE_BYTES
            and not any(path.match(name) for name in _NOT_TOKENIZER_FILES)
        }
        return {
            "files": files,
            "versions": {n: version(n) for n in ("jinja2", "tokenizers", "transformers")},
            "tokens_version": TOKENS_VERSION,
            "plan": self.plan.model_dump(mode="json", exclude={"max_length", "overlong"}),
            "is_conversational": self.is_conversational,
        }

    def render(self, row: dict[str, Any]) -> list[str]:
        """Render the prompt with each reply (chosen and rejected, or the ranked ones) as texts.

        Raises:
            TemplateTooCostlyError: the chat template exceeds a limit.
            ValueError, jinja2.TemplateError: the chat template cannot render the row, or omits its
                tools, its tool calls, or reasoning that is the only difference between replies.
        """
        if self.is_conversational:
            row = as_conversation(row)
            prompt = row.get("prompt", [])
            chats = [self._named(prompt + reply) for reply in replies_of(row)]
            variables = row.get("chat_template_kwargs", {})
            texts = self._renderer.render(chats, row.get("tools"), variables)
            check_shown(row, texts)
            return texts
        prompt = row.get("prompt", "")
        texts = [prompt + self._with_eos(reply) for reply in replies_of(row)]
        if self.plan.text_format == "raw":  # plans of earlier versions duplicate the token
            texts = [text.removeprefix(self._start) for text in texts]
        return texts

    def _named(self, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages with their reasoning under the name that the chat template reads."""
        name = self._reasoning_name
        if name in ("", "reasoning_content"):
            return chat
        return [
            {name if key == "reasoning_content" else key: value for key, value in message.items()}
            for message in chat
        ]

    @cached_property
    def kept_tokens(self) -> int:
        """Number of special tokens, such as BOS or [CLS], at the start of every text.

        Truncation keeps them.
        """
        message = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        row: dict[str, Any] = {
            "prompt": message[:1],
            "chosen": message[1:],
            "rejected": message[1:],
        }
        if not self.is_conversational:
            row = {"prompt": "a", "chosen": "a", "rejected": "a"}
        try:
            ids = self.encode(self.render(row)[:1])[0]
        except Exception:  # noqa: BLE001 - a template may raise anything; pairs are rendered later
            return 0
        return self.special_start(ids)

    def special_start(self, ids: list[int]) -> int:
        """Return how many special tokens, such as BOS or [CLS], a text begins with."""
        special = {self.tokenizer.bos_token_id, self.tokenizer.cls_token_id}
        return next((i for i, token in enumerate(ids) if token not in special), len(ids))

    def encode(self, rendered: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, neither padded nor truncated.

        The tokenizer's Rust code encodes them without offsets, which halves the time. The first
        texts are encoded in both ways; if the ids differ, transformers encodes all.
        """
        if self._encodes_directly is None:
            few = rendered[:COMPARED_TEXTS]
            self._encodes_directly = self._encode_directly(few) == self._encode_slowly(few)
        ids = self._encode_directly(rendered) if self._encodes_directly else None
        return self._encode_slowly(rendered) if ids is None else ids

    def _encode_directly(self, rendered: list[str]) -> list[list[int]] | None:
        """Return the ids, or None without a fast tokenizer."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        backend.no_truncation()  # other callers of the tokenizer may have set them
        backend.no_padding()
        found = backend.encode_batch_fast(rendered, add_special_tokens=not self.is_conversational)
        return [each.ids for each in found]

    def _encode_slowly(self, rendered: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            rendered,
            add_special_tokens=not self.is_conversational,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])

    def start(self) -> str:
        """Return the tokens that the tokenizer adds before a plain text, as text: BOS or [CLS]."""
        return self._start

    def prepared(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row in the form in which it is rendered: with messages for conversations."""
        return as_conversation(row) if self.is_conversational else row

    def has_special_tokens(self, row: dict[str, Any]) -> bool:
        """Return whether the user's text contains special tokens of this tokenizer."""
        return any(self._special.search(text) for text in _texts(row, self.tokenizer.eos_token))

    def joins_words(self, row: dict[str, Any]) -> bool:
        """Return whether a raw text has no white space or special token after its prompt."""
        prompt = row.get("prompt")
        if self.is_conversational or not prompt or prompt[-1].isspace():
            return False
        if prompt.endswith(self._special_texts):
            return False
        replies = [row[reply] for reply in REPLIES]
        return not all(r[:1].isspace() or r.startswith(self._special_texts) for r in replies)

    def _with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token
        needs_eos = self.plan.append_eos and isinstance(eos, str) and not text.endswith(eos)
        return f"{text}{eos}" if needs_eos else text


def load_tokenizer(model_dir: str | Path, plan: TokenizationPlan) -> PreTrainedTokenizerBase:
    """Load the base model's tokenizer with the plan's pad token and chat template.

    Raises:
        TrainerError: model_changed if the pad token has another id than in the plan.
    """
    tokenizer = load_base_tokenizer(model_dir, from_file=plan.from_file)
    if add_pad_token(tokenizer, plan.pad_token) != plan.pad_token_id:
        raise TrainerError(
            FailureCode.MODEL_CHANGED,
            f"the plan has {plan.pad_token!r} as token {plan.pad_token_id}, but the tokenizer "
            f"gives it id {tokenizer.pad_token_id}: the base model's files have changed since the "
            "plan was made; submit the job again",
        )
    tokenizer.padding_side = "right"
    if plan.chat_template is not None:
        tokenizer.chat_template = plan.chat_template
    return tokenizer


def check_shown(row: dict[str, Any], texts: list[str]) -> None:
    """Reject rendered texts that lack tools, tool calls or decisive reasoning of their row.

    Raises:
        ValueError: names what the chat template omits.
    """
    for reply, text in zip(replies_of(row), texts, strict=True):
        messages = row.get("prompt", []) + reply
        calls = [
            call["function"]["name"]
            for message in messages
            for call in message.get("tool_calls", ())
        ]
        tools = [tool.get("function", tool)["name"] for tool in row.get("tools", ())]
        if not calls and not tools:
            continue
        said = [part for message in messages for part in message_texts(message)]
        for what, names in (("tool calls", calls), ("tools", tools)):
            for name in names:
                # The text of a message may also contain the name of a tool.
                if text.count(name) <= sum(part.count(name) for part in said):
                    raise ValueError(f"it leaves out {what}, such as {name!r}")
    if len(set(texts)) < len(texts):
        by_text: dict[str, list[Any]] = {}
        for reply, text in zip(replies_of(row), texts, strict=True):
            by_text.setdefault(text, []).append(reply)
        for same in by_text.values():
            has_reasoning = any("reasoning_content" in m for reply in same for m in reply)
            if has_reasoning and any(reply != same[0] for reply in same):
                raise ValueError("it leaves out the reasoning, the only difference of the replies")


def message_texts(message: dict[str, Any]) -> list[str]:
    """Return the content and the reasoning of a message, without empty ones."""
    return [text for key in ("content", "reasoning_content") if (text := message.get(key))]


def _texts(row: dict[str, Any], eos: object) -> Iterable[str]:
    for value in (row.get("prompt", ""), *replies_of(row)):
        if isinstance(value, list):
            for message in value:
                yield from message_texts(message)
        else:
            yield value.removesuffix(eos) if isinstance(eos, str) else value
