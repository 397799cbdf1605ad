"""What is odd about a dataset, before anything is trained on it.

Works on rows (for the text) and their token ids (for one tokenizer); one pass keeps hashes and
counts, not texts, so that a million pairs cost some hundred bytes each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from worker.trainer.tokenization import PairTokenizer, prompt_digest, read_rows

#: Line numbers named in a finding; the count is always exact.
LINES_NAMED = 100
CHUNK_ROWS = 1000
_REPLIES = ("chosen", "rejected")
_FINDINGS = (
    "duplicates",
    "contradictions",
    "identical",
    "identical_as_tokens",
    "identical_truncated",
    "overlong",
    "empty",
    "special_tokens",
)
#: Upper ends of the histogram's bins, in tokens; the last bin has no end.
BINS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row of the canonical dataset and the ids of both whole sequences, not truncated."""

    row: dict[str, Any]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]
    has_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be tokenised: of which dataset ("training" or "eval"), where, and why."""

    dataset: str
    line: int
    error: str


def dataset_report(
    tokenizer: PairTokenizer, train_file: str | Path, eval_file: str | Path | None = None
) -> dict[str, Any]:
    """The report on canonical JSONL files for one tokenizer and its plan's ``max_length``."""
    errors: list[RowError] = []
    held_out = tokenized_rows(tokenizer, eval_file, "eval", errors) if eval_file else ()
    return report(
        tokenized_rows(tokenizer, train_file, "training", errors),
        max_length=tokenizer.plan.max_length,
        eval_rows=held_out,
        errors=errors,
    )


def tokenized_rows(
    tokenizer: PairTokenizer, path: str | Path, dataset: str, errors: list[RowError]
) -> Iterator[TokenizedRow]:
    """Every row that the template can render; the others go to ``errors``."""
    rows = read_rows(path)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        rendered: list[tuple[dict[str, Any], list[str]]] = []
        for row in chunk:
            try:
                rendered.append((row, [tokenizer.render(row, reply) for reply in _REPLIES]))
            except Exception as error:  # noqa: BLE001 - a template may raise anything
                reason = f"the chat template cannot render it: {error}"
                errors.append(RowError(dataset, row["line"], reason))
        ids = tokenizer.encode([text for _, texts in rendered for text in texts])
        for (row, _), chosen, rejected in zip(rendered, ids[0::2], ids[1::2], strict=True):
            yield TokenizedRow(row, chosen, rejected, tokenizer.has_special_tokens(row))


@dataclass
class Finding:
    """How many rows have something, and the lines of the first of them."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """One more row."""
        self.count += 1
        if len(self.lines) < LINES_NAMED:
            self.lines.append(line)


def report(
    rows: Iterable[TokenizedRow],
    *,
    max_length: int,
    eval_rows: Iterable[TokenizedRow] = (),
    errors: Iterable[RowError] = (),
) -> dict[str, Any]:
    """The dataset report, ready for JSON.

    ``errors`` are the rows that could not be tokenised at all; they are read after the rows.
    ``tokens``: "prompt" is what both sequences begin with, "chosen" and "rejected" are
    whole sequences. Findings:

    - ``duplicates``: the same pair again; ``contradictions``: the same pair the other way round
    - ``identical``: both replies are the same text; ``identical_as_tokens``: only as tokens;
      ``identical_truncated``: only in their first ``max_length`` tokens
    - ``overlong``: over ``max_length`` tokens; ``empty``: a reply without text
    - ``special_tokens``: user text that the tokenizer takes for special tokens
    - ``leaked``: eval rows whose prompt is in the training rows as well

    ``longer_is_better`` is the accuracy of preferring the longer reply, ties as half: far from
    0.5, and length alone explains the preferences.
    """
    survey = _Survey(max_length)
    for row in rows:
        survey.add(row)
    leaked, eval_count = Finding(), 0
    for row in eval_rows:
        eval_count += 1
        if prompt_digest(row.row) in survey.prompts:
            leaked.add(row.row["line"])
    invalid = [asdict(error) for error in errors]
    return {
        "rows": survey.rows,
        "eval_rows": eval_count,
        "prompts": len(survey.prompts),
        "max_length": max_length,
        "invalid": {"count": len(invalid), "rows": invalid[:LINES_NAMED]},
        "findings": {
            name: {"count": found.count, "lines": found.lines}
            for name, found in {**survey.findings, "leaked": leaked}.items()
        },
        "tokens": {name: lengths.document() for name, lengths in survey.lengths.items()},
        "longer_is_better": survey.longer_is_better / survey.rows if survey.rows else None,
    }


class _Survey:
    """Counts over the training rows."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.rows = 0
        self.prompts: set[bytes] = set()
        self.seen: set[tuple[bytes, bytes]] = set()
        self.longer_is_better = 0.0
        self.lengths = {name: _Lengths() for name in ("prompt", "chosen", "rejected")}
        self.findings = {name: Finding() for name in _FINDINGS}

    def add(self, row: TokenizedRow) -> None:
        line = row.row["line"]
        self.rows += 1
        self.prompts.add(prompt_digest(row.row))
        for name in _oddities(row, self.max_length):
            self.findings[name].add(line)
        chosen, rejected = (_digest(row.row.get("prompt"), row.row[r]) for r in _REPLIES)
        if (chosen, rejected) in self.seen:
            self.findings["duplicates"].add(line)
        if chosen != rejected and (rejected, chosen) in self.seen:
            self.findings["contradictions"].add(line)
        self.seen.add((chosen, rejected))
        shared = shared_prefix(row.chosen_ids, row.rejected_ids)
        ours, theirs = len(row.chosen_ids), len(row.rejected_ids)
        self.longer_is_better += 0.5 if ours == theirs else float(ours > theirs)
        self.lengths["prompt"].add(shared)
        self.lengths["chosen"].add(ours)
        self.lengths["rejected"].add(theirs)


def shared_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens that two sequences begin with in common."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return i
    return min(len(ours), len(theirs))


class _Lengths:
    """A histogram of token counts, with exact mean, median and extremes."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, length: int) -> None:
        self.counts[length] = self.counts.get(length, 0) + 1

    def document(self) -> dict[str, Any]:
        if not self.counts:
            return {"count": 0}
        total = sum(self.counts.values())
        bins = [{"up_to": end, "count": 0} for end in (*BINS, None)]
        for length, count in self.counts.items():
            bins[sum(length > end for end in BINS)]["count"] += count  # type: ignore[operator]
        return {
            "count": total,
            "mean": sum(length * count for length, count in self.counts.items()) / total,
            "min": min(self.counts),
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": max(self.counts),
            "histogram": bins,
        }

    def quantile(self, share: float) -> int:
        """The smallest length that at least ``share`` of the rows do not exceed."""
        left = share * sum(self.counts.values())
        for length in sorted(self.counts):
            left -= self.counts[length]
            if left <= 0:
                return length
        return max(self.counts)


def _oddities(row: TokenizedRow, max_length: int) -> Iterator[str]:
    """Names of the findings that one row makes by itself."""
    if row.row["chosen"] == row.row["rejected"]:
        yield "identical"
    elif list(row.chosen_ids) == list(row.rejected_ids):
        yield "identical_as_tokens"
    elif shared_prefix(row.chosen_ids, row.rejected_ids) >= max_length:
        yield "identical_truncated"
    if max(len(row.chosen_ids), len(row.rejected_ids)) > max_length:
        yield "overlong"
    if not all(_text(row.row[reply]).strip() for reply in _REPLIES):
        yield "empty"
    if row.has_special_tokens:
        yield "special_tokens"


def _text(reply: str | list[dict[str, str]]) -> str:
    """Of a reply, or of the last message of one."""
    if isinstance(reply, str):
        return reply
    return reply[-1]["content"] if reply else ""


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]
