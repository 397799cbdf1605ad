"""Encode texts for scoring exactly as in the training of the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from app.domain.plan import TrainingPlan
from app.domain.scoring import ScoreItem
from worker.reward_model.chat_template import TemplateTooCostlyError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.truncation import truncate_left

_MARK = "plauditreply"


class ItemInvalidError(Exception):
    """A text cannot be rendered or has no tokens; ``response`` is the index of the reply."""

    def __init__(self, detail: str, response: int | None = None) -> None:
        super().__init__(detail)
        self.detail, self.response = detail, response


class ReplyTokenizer:
    """Renders and encodes texts by the plan of the adapter.

    Any thread may create it. Use it in the main thread, as the chat template's time limit demands.
    """

    def __init__(self, base_dir: Path, plan: TrainingPlan) -> None:
        self._pairs = PairTokenizer(base_dir, plan.tokenization, plan.data.format)
        self.max_length = plan.tokenization.max_length
        self._cuts_probes = plan.tokenization.overlong == "truncate_left"

    def encode(self, item: ScoreItem) -> list[list[int]]:
        """Return the token ids of the prompt with each reply, without truncation.

        Raises:
            ItemInvalidError: the adapter cannot score the item.
        """
        if item.token_ids is not None:
            return [self._checked(item.token_ids)]
        if item.text is not None:
            texts = [self.complete(item.text)]
        elif item.may_be_templated and self._is_templated(item.prompt):
            texts = [self.complete(f"{item.prompt}{response}") for response in item.responses]
        else:
            texts = self._render(item)
        encoded = self._pairs.encode(texts)
        if empty := [i for i, ids in enumerate(encoded) if not ids]:
            raise ItemInvalidError("the text has no tokens", empty[0])
        return encoded

    def encode_rendered(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of the rendered texts of probes, truncated as in training."""
        encoded = self._pairs.encode(texts)
        if not self._cuts_probes:
            return encoded
        return [self.truncated(ids, self.max_length, "left") for ids in encoded]

    def truncated(self, ids: list[int], limit: int, side: str) -> list[int]:
        """Return at most ``limit`` tokens: the last ones for "left", the first ones for "right".

        The left side keeps the special tokens of the start, as training does: an encoder reads its
        score at [CLS], and decoders are trained with BOS.
        """
        if len(ids) <= limit:
            return ids
        if side == "right":
            return ids[:limit]
        # Token ids of a client may lack the start.
        kept = min(self._pairs.kept_tokens, self._pairs.special_start(ids), limit - 1)
        return truncate_left(ids, kept=kept, max_length=limit)

    def _checked(self, ids: list[int]) -> list[int]:
        """Return token ids that a client sent, or raise ItemInvalidError."""
        count = len(self._pairs.tokenizer)
        if not ids:
            raise ItemInvalidError("the text has no tokens")
        if not 0 <= min(ids) <= max(ids) < count:
            raise ItemInvalidError(f"the tokenizer has only the token ids from 0 to {count - 1}")
        return ids

    def complete(self, text: str) -> str:
        """Return a rendered text with the same start and end as in training.

        Clients may remove the BOS token, add a second one, or omit the tokens that close the reply.
        The reward is read at the last token, so it must be the same token as in training.
        """
        start, end = self._frame
        while start and text.startswith(start):
            text = text.removeprefix(start)
        for length in range(len(end), -1, -1):
            if text.endswith(end[:length]):
                text += end[length:]
                break
        # The tokenizer adds the start of a plain text by itself.
        return start + text if self._pairs.is_conversational else text

    def _is_templated(self, prompt: object) -> bool:
        return isinstance(prompt, str) and self._pairs.has_special_tokens(
            {"prompt": prompt, "replies": []}
        )

    def _render(self, item: ScoreItem) -> list[str]:
        values = [*([] if item.prompt is None else [item.prompt]), *item.responses]
        are_messages = any(not isinstance(value, str) for value in values)
        if are_messages and not self._pairs.is_conversational:
            raise ItemInvalidError("this adapter was trained on plain text; send strings")
        row: dict[str, Any] = {}
        if item.prompt is not None:
            row["prompt"] = _as_messages(item.prompt, "user") if are_messages else item.prompt
        row["replies"] = [
            {"reply": _as_messages(response, "assistant") if are_messages else response}
            for response in item.responses
        ]
        try:
            return self._pairs.render(row)
        except TemplateTooCostlyError as error:
            raise ItemInvalidError(f"the chat template {error}") from error
        except (ValueError, TemplateError) as error:
            raise ItemInvalidError(f"the chat template cannot render it: {error}") from error

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """Return the common start (BOS) and the common end of all rendered texts."""
        row: dict[str, Any] = {"replies": [{"reply": _MARK}]}
        if not self._pairs.is_conversational:
            return self._pairs.start(), self._pairs.render(row)[0].rpartition(_MARK)[2]
        try:
            text = self._pairs.render({"prompt": "a", **row})[0]
        except (ValueError, TemplateError, TemplateTooCostlyError):
            return "", ""
        bos = self._pairs.tokenizer.bos_token
        has_bos = isinstance(bos, str) and bool(bos) and text.startswith(bos)
        return bos if has_bos else "", text.rpartition(_MARK)[2]


def _as_messages(value: str | Sequence[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)
