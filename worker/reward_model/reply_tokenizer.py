"""Token ids of texts to score, as the training of the adapter would have made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from app.domain.plan import TrainingPlan
from app.domain.scoring import ScoreItem
from worker.reward_model.chat_template import TemplateTooCostlyError
from worker.reward_model.pair_tokenizer import PairTokenizer

_MARK = "plauditreply"


class ItemInvalidError(Exception):
    """A text cannot be rendered or has no tokens; ``response`` names the reply at fault."""

    def __init__(self, detail: str, response: int | None = None) -> None:
        super().__init__(detail)
        self.detail, self.response = detail, response


class ReplyTokenizer:
    """Renders and encodes as the plan of the adapter prescribes. Use it in the main thread."""

    def __init__(self, base_dir: Path, plan: TrainingPlan) -> None:
        self._pairs = PairTokenizer(base_dir, plan.tokenization, plan.data.format)
        self.max_length = plan.tokenization.max_length
        self._start, self._end = self._frame()

    def encode(self, item: ScoreItem) -> list[list[int]]:
        """Return the token ids of each reply with its prompt, not truncated.

        Raises:
            ItemInvalidError: the item does not suit the adapter.
        """
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
        """Return the token ids of texts that are rendered as in training."""
        return self._pairs.encode(texts)

    def complete(self, text: str) -> str:
        """Return a text that carries its template already with the start and end of training.

        Clients take the BOS token off, add a second one, or leave out what closes the reply. The
        reward is read at the last token, so what training had there has to be there.
        """
        start, end = self._start, self._end
        while start and text.startswith(start):
            text = text.removeprefix(start)
        for length in range(len(end), -1, -1):
            if text.endswith(end[:length]):
                text += end[length:]
                break
        # The tokenizer itself adds the start of a plain text.
        return start + text if self._pairs.is_conversational else text

    def _is_templated(self, prompt: object) -> bool:
        return isinstance(prompt, str) and self._pairs.has_special_tokens({"prompt": prompt})

    def _render(self, item: ScoreItem) -> list[str]:
        is_chat = self._pairs.is_conversational
        as_form = _as_messages if is_chat else _as_text
        row: dict[str, Any] = {}
        if item.prompt is not None:
            row["prompt"] = as_form(item.prompt, "user", None)
        keys = [str(i) for i in range(len(item.responses))]
        for i, response in enumerate(item.responses):
            row[keys[i]] = as_form(response, "assistant", i)
        try:
            return self._pairs.render(row, keys)
        except TemplateTooCostlyError as error:
            raise ItemInvalidError(f"the chat template {error}") from error
        except (ValueError, TemplateError) as error:
            raise ItemInvalidError(f"the chat template refuses it: {error}") from error

    def _frame(self) -> tuple[str, str]:
        """Return what every rendered text starts with (BOS), and what every one ends with."""
        tokenizer = self._pairs.tokenizer
        if not self._pairs.is_conversational:
            return self._pairs.start(), self._pairs.with_eos(_MARK).removeprefix(_MARK)
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
        try:
            text = self._pairs.render({"prompt": chat[:1], "0": chat[1:]}, ["0"])[0]
        except (ValueError, TemplateError, TemplateTooCostlyError):
            return "", ""
        bos = tokenizer.bos_token
        starts = isinstance(bos, str) and bool(bos) and text.startswith(bos)
        return bos if starts else "", text.rpartition(_MARK)[2]


def _as_messages(
    value: str | Sequence[dict[str, Any]], role: str, _response: int | None
) -> list[dict[str, Any]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _as_text(value: str | Sequence[dict[str, Any]], _role: str, response: int | None) -> str:
    if isinstance(value, str):
        return value
    raise ItemInvalidError(
        "this adapter was trained on plain text; send strings, not messages", response
    )


def truncated(ids: list[int], limit: int, side: str) -> list[int]:
    """Return at most ``limit`` tokens: the last ones for "left", the first ones for "right"."""
    if len(ids) <= limit:
        return ids
    return ids[-limit:] if side == "left" else ids[:limit]
