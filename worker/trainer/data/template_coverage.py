"""Find text that a chat template leaves out of a conversation: nothing is learned from it.

Templates of reasoning models remove the text between <think> and </think>, those of DeepSeek-R1
even from the reply that is judged. Other templates ignore system messages. A template that was
written for another model may omit the token with which each of the base model's texts began.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from worker.reward_model.errors import unsupported_model
from worker.reward_model.pair_tokenizer import REPLIES, PairTokenizer, message_texts
from worker.trainer.data.pairs import MAX_LINES_LISTED
from worker.trainer.data.tokenized_rows import TokenizedRow

#: Pairs that are rendered again, evenly spread: a template treats all pairs alike.
SAMPLED_PAIRS = 64


class TemplateCoverage:
    """Renders a sample of a dataset's pairs and compares the texts with the messages."""

    def __init__(self, tokenizer: PairTokenizer, dataset: str, pair_count: int) -> None:
        self._tokenizer = tokenizer
        self._dataset = dataset
        self._stride = max(1, math.ceil(pair_count / SAMPLED_PAIRS))
        self._start = tokenizer.start() if tokenizer.is_conversational else ""
        self._row_count = self._sampled = self._with_start = 0
        self._with_lost_reply = 0
        self._lines: list[int] = []

    def add(self, row: TokenizedRow) -> None:
        """Add the next pair of the dataset.

        Raises:
            TrainerError: model_unsupported when the pair gives other tokens the second time.
        """
        self._row_count += 1
        if (self._row_count - 1) % self._stride:
            return
        pair = row.row
        rendered = self._tokenizer.render(pair)
        if self._tokenizer.encode(rendered) != [row.chosen_ids.tolist(), row.rejected_ids.tolist()]:
            raise unsupported_model(
                f"the pair in line {pair['line']} gives other tokens each time it is tokenised: "
                "either the chat template makes random choices, or tokenizer.json uses dropout"
            )
        if not self._tokenizer.is_conversational:
            return
        self._sampled += 1
        self._with_start += all(text.startswith(self._start) for text in rendered)
        texts = [_without_whitespace(text) for text in rendered]
        is_reply_lost, is_prompt_lost = (
            any(
                _without_whitespace(part) not in text
                for messages, text in zip(parts, texts, strict=True)
                for message in messages
                for part in message_texts(message)
            )
            for parts in ([pair[reply] for reply in REPLIES], [pair.get("prompt", [])] * 2)
        )
        self._with_lost_reply += is_reply_lost
        if is_reply_lost or is_prompt_lost:
            self._lines.append(pair["line"])

    def warnings(self) -> Iterator[Noted]:
        """Yield a warning for each problem."""
        if self._sampled and not self._with_start:
            yield Noted(
                code=WarningCode.START_LEFT_OUT,
                message=f"no conversation begins with {self._start!r}, which this base model's "
                "tokenizer adds to every other text. The model was most likely trained with it: "
                "set a chat_template that begins with it in the catalogue entry",
                data={"dataset": self._dataset},
                is_warning=True,
            )
        if self._lines:
            yield Noted(
                code=WarningCode.TEXT_LEFT_OUT,
                message=f"the chat template leaves out text of {len(self._lines)} of "
                f"{self._sampled} sampled {self._dataset} pairs, and in {self._with_lost_reply} of "
                "them text of a reply. It may be reasoning between <think> and </think>, or a "
                "system message. Nothing is learned from this text; set a chat_template that keeps "
                "it in the base model's catalogue entry",
                data={
                    "dataset": self._dataset,
                    "count": len(self._lines),
                    "in_replies": self._with_lost_reply,
                    "lines": list(self._lines[:MAX_LINES_LISTED]),
                },
                is_warning=True,
            )


def _without_whitespace(text: str) -> str:
    """Remove whitespace, which templates trim."""
    return "".join(text.split())
