"""What a chat template leaves out of a conversation, so that nothing can be learned from it.

Templates of reasoning models strip what stands between <think> and </think>, those of DeepSeek-R1
also from the very reply that is judged; others pass over system messages. One that was written for
a model without may leave out the token that each of its texts began with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.reward_model.errors import unsupported
from worker.reward_model.pair_tokenizer import REPLIES, PairTokenizer, message_texts
from worker.trainer.data.pairs import LINES_NAMED
from worker.trainer.data.tokenized_rows import TokenizedRow

#: Evenly over the dataset: they are rendered again, and a template does the same to all.
PAIRS_LOOKED_AT = 64


class TemplateCoverage:
    """Looks at every so many pairs of a dataset."""

    def __init__(self, tokenizer: PairTokenizer, which: str, pair_count: int) -> None:
        self._tokenizer = tokenizer
        self._which = which
        self._stride = max(1, math.ceil(pair_count / PAIRS_LOOKED_AT))
        self._start = tokenizer.start() if tokenizer.is_conversational else ""
        self._passed = self._seen = self._judged = self._started = 0
        self._lines: list[int] = []

    def look(self, row: TokenizedRow) -> None:
        """The next pair.

        Raises:
            TrainerFailure: model_unsupported when it does not become the same tokens again.
        """
        self._passed += 1
        if (self._passed - 1) % self._stride:
            return
        pair = row.row
        rendered = self._tokenizer.render(pair)
        ids = self._tokenizer.encode(rendered)
        if ids != [row.chosen_ids.tolist(), row.rejected_ids.tolist()]:
            raise unsupported(
                f"line {pair['line']} of the pairs becomes other tokens each time; a chat template "
                "that draws by chance does that, or dropout in tokenizer.json"
            )
        if not self._tokenizer.is_conversational:
            return
        self._seen += 1
        self._started += all(text.startswith(self._start) for text in rendered)
        texts = [_squeezed(text) for text in rendered]
        judged, prompt = (
            any(
                _squeezed(part) not in text
                for messages, text in zip(parts, texts, strict=True)
                for message in messages
                for part in message_texts(message)
            )
            for parts in ([pair[reply] for reply in REPLIES], [pair.get("prompt", [])] * 2)
        )
        self._judged += judged
        if judged or prompt:
            self._lines.append(pair["line"])

    def notes(self) -> Iterator[Noted]:
        """What was found, if anything."""
        if self._seen and not self._started:
            yield Noted(
                code=WarningCode.START_LEFT_OUT,
                message=f"no conversation begins with {self._start!r}, which this base model's "
                "tokenizer puts before every other text; it was most likely trained with it: give "
                "the catalogue entry a chat_template that begins with it",
                data={"dataset": self._which},
                is_warning=True,
            )
        if self._lines:
            yield Noted(
                code=WarningCode.TEXT_LEFT_OUT,
                message=f"the chat template leaves text out of {len(self._lines)} of {self._seen} "
                f"{self._which} pairs looked at, in {self._judged} of them out of a reply: "
                "reasoning between <think> and </think>, perhaps, or a system message. Nothing is "
                "learned from it; give the base model's catalogue entry a chat_template that keeps "
                "it",
                data={
                    "dataset": self._which,
                    "count": len(self._lines),
                    "in_replies": self._judged,
                    "lines": list(self._lines[:LINES_NAMED]),
                },
                is_warning=True,
            )


def _squeezed(text: str) -> str:
    """Without whitespace, which templates trim."""
    return "".join(text.split())
