"""What is odd about a dataset, before anything is trained on it.

Works on rows (for the text) and their token ids (for one tokenizer); one pass keeps hashes and
counts, not texts, so that a million pairs cost some hundred bytes each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from worker.reward_model.pair_tokenizer import REPLIES
from worker.reward_model.token_cache import Ids
from worker.trainer.data.pairs import prompt_digest
from worker.trainer.data.tokenized_rows import TokenizedRow

#: Line numbers named in a finding; the count is always exact.
LINES_NAMED = 100
FINDINGS = (
    "duplicates",
    "contradictions",
    "identical",
    "identical_as_tokens",
    "identical_truncated",
    "overlong",
    "empty",
    "special_tokens",
    "leaked",
)
#: Upper ends of the histogram's bins, in tokens; the last bin has no end.
BINS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


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


class DatasetReportBuilder:
    """Counts over the training rows, then over the held-out ones; ``document`` is the report."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._rows = self.held_out = self._invalid_count = 0
        self._invalid: list[dict[str, Any]] = []
        self._prompts: set[bytes] = set()
        self._seen: set[tuple[bytes, bytes]] = set()
        self._longer_is_better = 0.0
        self._lengths = {name: _Lengths() for name in ("prompt", *REPLIES)}
        self._findings = {name: Finding() for name in FINDINGS}

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence to train on."""
        return max(0, *(max(self._lengths[reply].counts, default=0) for reply in REPLIES))

    @property
    def leaked(self) -> Finding:
        """Held-out rows whose prompt is trained on as well."""
        return self._findings["leaked"]

    def add(self, row: TokenizedRow) -> None:
        """The next training row."""
        line, fields = row.row["line"], row.row
        self._rows += 1
        self._prompts.add(prompt_digest(fields))
        shared = shared_prefix(row.chosen_ids, row.rejected_ids)
        for name in _oddities(row, shared, self._max_length):
            self._findings[name].add(line)
        chosen, rejected = (_digest(fields.get("prompt"), fields[reply]) for reply in REPLIES)
        if (chosen, rejected) in self._seen:
            self._findings["duplicates"].add(line)
        if chosen != rejected and (rejected, chosen) in self._seen:
            self._findings["contradictions"].add(line)
        self._seen.add((chosen, rejected))
        ours, theirs = len(row.chosen_ids), len(row.rejected_ids)
        self._longer_is_better += 0.5 if ours == theirs else float(ours > theirs)
        self._lengths["prompt"].add(shared)
        self._lengths["chosen"].add(ours)
        self._lengths["rejected"].add(theirs)

    def add_held_out(self, row: TokenizedRow) -> None:
        """The next eval row, after all training rows."""
        self.held_out += 1
        if prompt_digest(row.row) in self._prompts:
            self._findings["leaked"].add(row.row["line"])

    def refuse(self, dataset: str, line: int, error: str) -> None:
        """A row of "training" or "eval" that cannot be tokenised."""
        self._invalid_count += 1
        if len(self._invalid) < LINES_NAMED:
            self._invalid.append({"dataset": dataset, "line": line, "error": error})

    def document(self) -> dict[str, Any]:
        """The dataset report, ready for JSON.

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
        return {
            "rows": self._rows,
            "eval_rows": self.held_out,
            "prompts": len(self._prompts),
            "max_length": self._max_length,
            "invalid": {"count": self._invalid_count, "rows": self._invalid},
            "findings": {name: asdict(found) for name, found in self._findings.items()},
            "tokens": {name: lengths.document() for name, lengths in self._lengths.items()},
            "longer_is_better": self._longer_is_better / self._rows if self._rows else None,
        }


def shared_prefix(ours: Ids, theirs: Ids) -> int:
    """Tokens that two sequences begin with in common."""
    length = min(len(ours), len(theirs))
    differ = np.flatnonzero(ours[:length] != theirs[:length])
    return int(differ[0]) if len(differ) else length


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


def _oddities(row: TokenizedRow, shared: int, max_length: int) -> Iterator[str]:
    """Names of the findings that one row makes by itself; ``shared`` tokens begin both replies."""
    longest = max(len(row.chosen_ids), len(row.rejected_ids))
    if row.row["chosen"] == row.row["rejected"]:
        yield "identical"
    elif shared == longest:
        yield "identical_as_tokens"
    elif shared >= max_length:
        yield "identical_truncated"
    if longest > max_length:
        yield "overlong"
    if not all(_text(row.row[reply]).strip() for reply in REPLIES):
        yield "empty"
    if row.has_special_tokens:
        yield "special_tokens"


def _text(reply: str | list[dict[str, Any]]) -> str:
    """Of a reply, or of the last message of one; calls of tools count as text."""
    if isinstance(reply, str):
        return reply
    if not reply:
        return ""
    return reply[-1]["content"] or str(reply[-1].get("tool_calls", ""))


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]
