"""Convert rows of an evaluation to token ids: render every reply, leave out unusable rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from app.domain.evaluation import Overlong
from app.domain.judging.score_table import ScoredRow
from app.domain.rows import ranked_pairs, replies_of
from worker.reward_model.pair_tokenizer import PairTokenizer, message_texts
from worker.reward_model.truncation import common_prefix_length, fits_when_cut, truncate_left
from worker.trainer.data.pair_records import prompt_of
from worker.trainer.data.row_encoder import encode_rows
from worker.trainer.data.row_files import chunks_of_lines

#: Maximum number of line numbers in a result, for each reason.
MAX_LINES = 20
#: Gold scores up to this size have finite sums; others are no gold scores.
MAX_GOLD = 1e100
Reason = Literal["overlong", "not_rendered", "no_tokens", "ends_in_pad_token", "not_embedded"]


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
        has_gold = all(value is not None and abs(value) <= MAX_GOLD for value in gold)
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
            gold=tuple(map(float, gold)) if has_gold else None,
            slice=row.get("slice"),
            id=row.get("id"),
        )


@dataclass
class JudgedRows:
    """The rows that can be scored, and the lines of those that cannot, by reason."""

    rows: list[JudgedRow] = field(default_factory=list)
    left_out: dict[Reason, list[int]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of omitted and truncated rows, with the first line numbers."""
        cut = [row.row["line"] for row in self.rows if any(row.truncated)]
        return {
            "left_out": {
                reason: {"rows": len(lines), "lines": lines[:MAX_LINES]}
                for reason, lines in sorted(self.left_out.items())
            },
            "truncated": {"rows": len(cut), "lines": cut[:MAX_LINES]},
        }


def judged_rows(
    path: Path, tokenizer: PairTokenizer, *, overlong: Overlong, on_chunk: Callable[[], None]
) -> JudgedRows:
    """Tokenise the rows of a file: pairs, or ranked rows with any number of replies.

    ``on_chunk`` is called before each chunk of rows, and may raise to stop.

    Raises:
        TrainerError: model_unsupported when the chat template or the tokenizer exceeds a limit.
    """
    result = JudgedRows()

    def leave_out(line: int, _problem: str) -> None:
        result.left_out.setdefault("not_rendered", []).append(line)

    for lines in chunks_of_lines(path):
        on_chunk()
        for encoded in encode_rows(map(json.loads, lines), tokenizer, leave_out):
            _add(tokenizer.prepared(encoded.row), encoded.texts, tokenizer, overlong, result)
    return result


def with_replies(row: dict[str, Any], replies: Sequence[Any]) -> dict[str, Any]:
    """Return the row with other replies in the same order."""
    if "replies" in row:
        ranked = [{**old, "reply": new} for old, new in zip(row["replies"], replies, strict=True)]
        return {**row, "replies": ranked}
    return {**row, "chosen": replies[0], "rejected": replies[1]}


def reply_text(reply: Any) -> str:
    """Return the text of a reply, without roles."""
    if isinstance(reply, str):
        return reply
    return "\n".join(text for message in reply for text in message_texts(message))


def prompt_text(row: dict[str, Any]) -> str:
    """Return the text of a prompt, or of the last message of a conversation."""
    prompt = row.get("prompt") or ""
    return prompt if isinstance(prompt, str) else reply_text(prompt[-1:])


def prompt_key(row: dict[str, Any]) -> str:
    """Return a digest that rows of the same prompt share, whether it is text or one message."""
    prompt = prompt_of(row)
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        message = prompt[0]
        if message.get("role") == "user" and message.keys() == {"role", "content"}:
            prompt = message["content"]
    if isinstance(prompt, str):
        prompt = prompt.strip()
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:16]


def training_overlap(
    rows: Sequence[JudgedRow],
    train_file: Path,
    held_out: frozenset[int],
    on_chunk: Callable[[], None],
) -> dict[str, Any]:
    """Return the rows whose prompts are in a training file.

    ``held_out`` are the indices of its rows, from 0, that were not trained on. ``on_chunk`` is
    called before each chunk of its rows, and may raise to stop.
    """
    trained_on: set[str] = set()
    place = 0
    for lines in chunks_of_lines(train_file):
        on_chunk()
        used = (line for number, line in enumerate(lines, place) if number not in held_out)
        trained_on.update(prompt_key(json.loads(line)) for line in used)
        place += len(lines)
    lines = [row.row["line"] for row in rows if prompt_key(row.row) in trained_on]
    return {"rows": len(lines), "share": len(lines) / len(rows), "lines": lines[:MAX_LINES]}


def _add(
    row: dict[str, Any],
    texts: list[list[int]],
    tokenizer: PairTokenizer,
    overlong: Overlong,
    result: JudgedRows,
) -> None:
    limit, line = tokenizer.plan.max_length, row["line"]
    truncated = tuple(len(each) > limit for each in texts)
    if any(truncated) and not _may_be_cut(row, texts, tokenizer, overlong):
        result.left_out.setdefault("overlong", []).append(line)
        return
    ids = tuple(cut(each, tokenizer, overlong) for each in texts)
    if reason := unscorable(ids, tokenizer):
        result.left_out.setdefault(reason, []).append(line)
        return
    result.rows.append(JudgedRow(row, replies_of(row), ids, truncated))


def _may_be_cut(
    row: dict[str, Any], texts: list[list[int]], tokenizer: PairTokenizer, overlong: Overlong
) -> bool:
    """Whether overlong texts of a row are cut; as trained, only if all replies stay whole."""
    if overlong == "truncate" or not _cuts_left(tokenizer, overlong):
        return overlong == "truncate"
    ids = [np.asarray(each, dtype=np.int32) for each in texts]
    pairs = list(ranked_pairs(row)) if "replies" in row else [(0, 1)]
    longest = np.array([max(len(ids[i]), len(ids[j])) for i, j in pairs])
    prefix = np.array([common_prefix_length(ids[i], ids[j]) for i, j in pairs])
    limit = tokenizer.plan.max_length
    fits = fits_when_cut(longest, prefix, kept=tokenizer.kept_tokens, max_length=limit)
    return bool(np.all(fits | (longest <= limit)))


def cut(ids: list[int], tokenizer: PairTokenizer, overlong: Overlong) -> list[int]:
    """Return the tokens of a text that are scored: at most ``max_length``."""
    limit = tokenizer.plan.max_length
    if len(ids) > limit and _cuts_left(tokenizer, overlong):
        return truncate_left(ids, kept=tokenizer.kept_tokens, max_length=limit)
    return ids[:limit]


def _cuts_left(tokenizer: PairTokenizer, overlong: Overlong) -> bool:
    plan = tokenizer.plan
    is_trained_so = overlong == "as_trained" and plan.overlong == "truncate_left"
    return is_trained_so and tokenizer.kept_tokens < plan.max_length


def unscorable(ids: Sequence[list[int]], tokenizer: PairTokenizer) -> Reason | None:
    """Return why sequences have no valid reward, or None. It is read at the last non-pad token."""
    plan = tokenizer.plan
    if not all(ids):
        return "no_tokens"
    if plan.embedding_rows is not None and max(map(max, ids)) >= plan.embedding_rows:
        return "not_embedded"
    if any(each[-1] == plan.pad_token_id for each in ids):
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
