"""Find text that a chat template omits from a conversation, so that nothing is learned from it.

Templates of reasoning models remove the text between <think> and </think>; those of DeepSeek-R1
remove it even from the scored reply. Other templates ignore system messages. A template written
for another model may omit the token that began each text in the training of the base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.domain.progress import Noted
from app.domain.rows import as_pair
from app.domain.warnings import WarningCode
from worker.reward_model.errors import unsupported_model
from worker.reward_model.pair_tokenizer import REPLIES, PairTokenizer, message_texts
from worker.trainer.data.findings import MAX_LINES_IN_MESSAGE, Finding
from worker.trainer.data.pair_table import Pair, PairTable
from worker.trainer.data.row_files import rows_at

#: Number of pairs, at equal distances, that are rendered again. A template treats all pairs alike.
SAMPLED_PAIRS = 64


def warn_of_lost_text(
    tokenizer: PairTokenizer, dataset: str, path: Path, pairs: PairTable
) -> Iterator[Noted]:
    """Render a sample of the pairs of a file again, and yield a warning for each problem.

    Raises:
        TrainerError: model_unsupported if a pair has other tokens than the first time.
    """
    stride = max(1, math.ceil(len(pairs) / SAMPLED_PAIRS))
    sample = pairs.whole[::stride]
    places = sample.column("row").tolist()
    rows = rows_at(path, places)
    start = tokenizer.start()
    with_start = with_lost_reply = 0
    lost = Finding()
    for place, pair in zip(places, sample, strict=True):
        row = tokenizer.prepared(rows[place])
        row = as_pair(row, *pair.replies) if pair.replies else row
        rendered = _rendered_again(tokenizer, row, pair)
        if not tokenizer.is_conversational:
            continue
        with_start += all(text.startswith(start) for text in rendered)
        is_reply_lost, is_prompt_lost = _lost_parts(row, rendered)
        with_lost_reply += is_reply_lost
        if is_reply_lost or is_prompt_lost:
            lost.add(pair.line)
    if tokenizer.is_conversational and len(sample) and not with_start:
        yield Noted(
            code=WarningCode.START_LEFT_OUT,
            message=f"no conversation begins with {start!r}, which this base model's "
            "tokenizer adds to every other text. The model was most likely trained with it: "
            "set a chat_template that begins with it in the catalogue entry",
            data={"dataset": dataset},
            is_warning=True,
        )
    if lost.count:
        yield _text_left_out(dataset, len(sample), lost, with_lost_reply)


def _text_left_out(dataset: str, sampled: int, lost: Finding, with_lost_reply: int) -> Noted:
    """Return the warning that the chat template leaves out text of some of the sampled pairs."""
    return Noted(
        code=WarningCode.TEXT_LEFT_OUT,
        message=f"the chat template leaves out text of {lost.count} of "
        f"{sampled} sampled {dataset} pairs, and in {with_lost_reply} of "
        "them text of a reply. It may be reasoning between <think> and </think>, or a "
        "system message. Nothing is learned from this text; set a chat_template that keeps "
        "it in the base model's catalogue entry",
        data={
            "dataset": dataset,
            "count": lost.count,
            "in_replies": with_lost_reply,
            "lines": list(lost.lines[:MAX_LINES_IN_MESSAGE]),
        },
        is_warning=True,
    )


def _rendered_again(tokenizer: PairTokenizer, row: dict[str, Any], pair: Pair) -> list[str]:
    """Render a pair again and return its texts.

    Raises:
        TrainerError: model_unsupported if the texts have other tokens than before.
    """
    rendered = tokenizer.render(row)
    if tokenizer.encode(rendered) != [pair.chosen.tolist(), pair.rejected.tolist()]:
        raise unsupported_model(
            f"the pair in line {pair.line} gives other tokens each time it is tokenised: "
            "either the chat template makes random choices, or tokenizer.json uses dropout"
        )
    return rendered


def _lost_parts(row: dict[str, Any], rendered: list[str]) -> tuple[bool, bool]:
    """Return whether the rendered texts lack text of a reply, and whether they lack prompt text."""
    texts = [_without_whitespace(text) for text in rendered]
    is_reply_lost, is_prompt_lost = (
        any(
            _without_whitespace(part) not in text
            for messages, text in zip(parts, texts, strict=True)
            for message in messages
            for part in message_texts(message)
        )
        for parts in ([row[reply] for reply in REPLIES], [row.get("prompt", [])] * 2)
    )
    return is_reply_lost, is_prompt_lost


def _without_whitespace(text: str) -> str:
    """Remove whitespace, which templates trim."""
    return "".join(text.split())
