"""Rows of an evaluation as token ids: render every reply, leave out what cannot be scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from app.domain.judging.score_table import ScoredRow
from worker.reward_model.pair_tokenizer import PairTokenizer, message_texts
from worker.trainer.data.row_files import read_rows

CHUNK_ROWS = 200
#: Line numbers that a result lists for each reason.
MAX_LINES = 20
Reason = Literal["overlong", "not_rendered", "no_tokens", "ends_in_pad_token"]


@dataclass(frozen=True)
class JudgedRow:
    """A row whose replies can be scored: ``ids`` are the token ids of prompt and reply."""

    row: dict[str, Any]
    replies: Sequence[Any]
    ids: tuple[list[int], ...]
    truncated: tuple[bool, ...]

    def scored(self, scores: Sequence[float]) -> ScoredRow:
        """Return the row of the score table."""
        row = self.row
        ranked = row.get("replies") or [{"rank": 1}, {"rank": 2}]
        gold = [reply.get("score") for reply in ranked]
        texts = tuple(reply_text(reply) for reply in self.replies)
        return ScoredRow(
            line=row["line"],
            prompt=prompt_key(row),
            ranks=tuple(reply["rank"] for reply in ranked),
            scores=tuple(scores),
            lengths=tuple(map(len, texts)),
            tokens=tuple(map(len, self.ids)),
            truncated=self.truncated,
            texts=tuple(json.dumps(reply, sort_keys=True) for reply in self.replies),
            gold=None if None in gold else tuple(map(float, gold)),
            slice=row.get("slice"),
            id=row.get("id"),
        )


@dataclass
class JudgedRows:
    """The rows that can be scored, and the lines of those that cannot, by reason."""

    rows: list[JudgedRow] = field(default_factory=list)
    left_out: dict[Reason, list[int]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return how many rows were left out and cut, with the first lines of each."""
        cut = [row.row["line"] for row in self.rows if any(row.truncated)]
        return {
            "left_out": {
                reason: {"rows": len(lines), "lines": lines[:MAX_LINES]}
                for reason, lines in sorted(self.left_out.items())
            },
            "truncated": {"rows": len(cut), "lines": cut[:MAX_LINES]},
        }


def judged_rows(
    path: Path, tokenizer: PairTokenizer, *, overlong: Literal["drop", "truncate"]
) -> JudgedRows:
    """Tokenise the rows of a file: pairs, or ranked rows with any number of replies."""
    result = JudgedRows()
    rows = read_rows(path)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        for row, ids in encode_rows(chunk, tokenizer, result.left_out):
            _add(row, ids, tokenizer, overlong, result)
    return result


def encode_rows(
    rows: Iterable[dict[str, Any]],
    tokenizer: PairTokenizer,
    left_out: dict[Reason, list[int]],
) -> list[tuple[dict[str, Any], list[list[int]]]]:
    """Return the rows that can be rendered, as the tokenizer's format, with ids of each reply."""
    rendered: list[tuple[dict[str, Any], list[str]]] = []
    for original in rows:
        row = as_conversation(original) if tokenizer.is_conversational else original
        try:
            rendered.append((row, render_replies(row, tokenizer)))
        except Exception:  # noqa: BLE001 - a template may raise anything
            left_out.setdefault("not_rendered", []).append(row["line"])
    if not rendered:
        return []
    encoded = iter(tokenizer.encode([text for _, texts in rendered for text in texts]))
    return [(row, list(islice(encoded, len(texts)))) for row, texts in rendered]


def render_replies(row: dict[str, Any], tokenizer: PairTokenizer) -> list[str]:
    """Return the text of the prompt with each reply, as the training of the adapter had it."""
    replies = replies_of(row)
    texts: list[str] = []
    for start in range(0, len(replies), 2):
        pair = list(replies[start : start + 2])
        is_odd = len(pair) == 1
        pair += [replies[0]] * is_odd
        common = {k: v for k, v in row.items() if k != "replies"}
        both = tokenizer.render({**common, "chosen": pair[0], "rejected": pair[1]})
        texts += both[:1] if is_odd else both
    return texts


def replies_of(row: dict[str, Any]) -> list[Any]:
    """Return the replies of a row, best first."""
    if "replies" in row:
        return [reply["reply"] for reply in row["replies"]]
    return [row["chosen"], row["rejected"]]


def with_replies(row: dict[str, Any], replies: Sequence[Any]) -> dict[str, Any]:
    """Return the row with other replies in the same order."""
    if "replies" in row:
        ranked = [{**old, "reply": new} for old, new in zip(row["replies"], replies, strict=True)]
        return {**row, "replies": ranked}
    return {**row, "chosen": replies[0], "rejected": replies[1]}


def as_conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of texts as one of messages: the prompt by the user, the reply by the assistant.

    The published runners of the benchmarks do the same. A row of messages stays as it is.
    """
    if not isinstance(replies_of(row)[0], str):
        return row
    prompt = [{"role": "user", "content": row.get("prompt", "")}]
    replies = [[{"role": "assistant", "content": text}] for text in replies_of(row)]
    return with_replies({**row, "prompt": prompt}, replies)


def reply_text(reply: Any) -> str:
    """Return the text of a reply, without roles."""
    if isinstance(reply, str):
        return reply
    return "\n".join(text for message in reply for text in message_texts(message))


def prompt_text(row: dict[str, Any]) -> str:
    """Return the text of a prompt; of a conversation the last message."""
    prompt = row.get("prompt") or ""
    return prompt if isinstance(prompt, str) else reply_text(prompt[-1:])


def prompt_key(row: dict[str, Any]) -> str:
    """Return a digest that rows of the same prompt share, whether it is text or one message.

    A row without a prompt is a prompt of its own.
    """
    prompt = row.get("prompt") or replies_of(row)
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        message = prompt[0]
        if message.get("role") == "user" and message.keys() == {"role", "content"}:
            prompt = message["content"]
    if isinstance(prompt, str):
        prompt = prompt.strip()
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:16]


def training_overlap(rows: Sequence[JudgedRow], train_file: Path) -> dict[str, Any]:
    """Return the rows whose prompts are in a training file, which includes its held-out part."""
    trained_on = {prompt_key(row) for row in read_rows(train_file)}
    lines = [row.row["line"] for row in rows if prompt_key(row.row) in trained_on]
    return {"rows": len(lines), "share": len(lines) / len(rows), "lines": lines[:MAX_LINES]}


def _add(
    row: dict[str, Any],
    ids: list[list[int]],
    tokenizer: PairTokenizer,
    overlong: Literal["drop", "truncate"],
    result: JudgedRows,
) -> None:
    limit, line = tokenizer.plan.max_length, row["line"]
    truncated = tuple(len(each) > limit for each in ids)
    if any(truncated) and overlong == "drop":
        result.left_out.setdefault("overlong", []).append(line)
        return
    cut = tuple(each[:limit] for each in ids)
    if reason := unscorable(cut, tokenizer):
        result.left_out.setdefault(reason, []).append(line)
        return
    result.rows.append(JudgedRow(row, replies_of(row), cut, truncated))


def unscorable(ids: Sequence[list[int]], tokenizer: PairTokenizer) -> Reason | None:
    """Return why sequences cannot be scored: the reward is read at the last token but pads."""
    if not all(ids):
        return "no_tokens"
    if any(each[-1] == tokenizer.plan.pad_token_id for each in ids):
        return "ends_in_pad_token"
    return None


def only_pair(row: JudgedRow) -> JudgedRow:
    """Return the row with its best and its worst reply only."""
    if "replies" not in row.row:
        return row
    ends = [row.row["replies"][0], row.row["replies"][-1]]
    return replace(
        row,
        row={**row.row, "replies": ends},
        replies=(row.replies[0], row.replies[-1]),
        ids=(row.ids[0], row.ids[-1]),
        truncated=(row.truncated[0], row.truncated[-1]),
    )
