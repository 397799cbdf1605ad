"""Report what is noteworthy about a dataset before anything is trained on it.

The report is built in one pass over the rows and their token ids. It keeps digests and counts but
no texts, so that a million pairs take some hundred bytes each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from worker.reward_model.pair_tokenizer import REPLIES
from worker.reward_model.truncation import common_prefix_length
from worker.trainer.data.pairs import prompt_digest
from worker.trainer.data.tokenized_rows import TokenizedRow

#: Line numbers listed per finding; the count is always exact.
MAX_LINES_LISTED = 100
FINDINGS = (
    "duplicates",
    "contradictions",
    "identical",
    "identical_as_tokens",
    "overlong",
    "empty",
    "special_tokens",
    "leaked",
)
#: Upper ends of the histogram's bins, in tokens; the last bin has no end.
BINS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass
class Finding:
    """The number of rows with some property, and the lines of the first ones."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count a row."""
        self.count += 1
        if len(self.lines) < MAX_LINES_LISTED:
            self.lines.append(line)


class DatasetReportBuilder:
    """Builds the dataset report from the training rows and then the eval rows."""

    def __init__(self, max_length: int) -> None:
        self.eval_count = 0
        self._max_length = max_length
        self._row_count = self._invalid_count = 0
        self._invalid: list[dict[str, Any]] = []
        self._prompts: set[bytes] = set()
        self._trained_prompts: set[bytes] = set()
        self._seen: set[tuple[bytes, bytes]] = set()
        self._longer_is_better = 0.0
        self._lengths = {name: _Lengths() for name in ("prompt", *REPLIES)}
        self._findings = {name: Finding() for name in FINDINGS}

    @property
    def longest(self) -> int:
        """Tokens of the longest training sequence."""
        return max(0, *(max(self._lengths[reply].counts, default=0) for reply in REPLIES))

    def finding(self, name: str) -> Finding:
        """Return one of ``FINDINGS``."""
        return self._findings[name]

    @property
    def row_count(self) -> int:
        """Training rows."""
        return self._row_count

    def add_training_row(self, row: TokenizedRow, *, is_used: bool) -> None:
        """Add the next training row, and whether its pair is trained on."""
        line, fields = row.row["line"], row.row
        self._row_count += 1
        if is_used:
            self._trained_prompts.add(prompt_digest(fields))
        self._prompts.add(prompt_digest(fields))
        prefix_length = common_prefix_length(row.chosen_ids, row.rejected_ids)
        for name in _row_findings(row, prefix_length, self._max_length):
            self._findings[name].add(line)
        chosen, rejected = (_digest(fields.get("prompt"), fields[reply]) for reply in REPLIES)
        if (chosen, rejected) in self._seen:
            self._findings["duplicates"].add(line)
        if chosen != rejected and (rejected, chosen) in self._seen:
            self._findings["contradictions"].add(line)
        self._seen.add((chosen, rejected))
        chosen_length, rejected_length = len(row.chosen_ids), len(row.rejected_ids)
        is_tie = chosen_length == rejected_length
        self._longer_is_better += 0.5 if is_tie else float(chosen_length > rejected_length)
        self._lengths["prompt"].add(prefix_length)
        self._lengths["chosen"].add(chosen_length)
        self._lengths["rejected"].add(rejected_length)

    def add_eval_row(self, row: TokenizedRow, *, is_used: bool) -> None:
        """Add the next eval row, after all training rows, and whether its pair is evaluated."""
        self.eval_count += 1
        if is_used and prompt_digest(row.row) in self._trained_prompts:
            self._findings["leaked"].add(row.row["line"])

    def add_invalid_row(self, dataset: str, line: int, error: str) -> None:
        """Add a row of the "training" or "eval" dataset that cannot be tokenised."""
        self._invalid_count += 1
        if len(self._invalid) < MAX_LINES_LISTED:
            self._invalid.append({"dataset": dataset, "line": line, "error": error})

    def build(self, pairs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the report, ready for JSON; ``pairs`` are those of ``count_pairs``, if known.

        ``tokens``: "prompt" is the common prefix of both sequences, "chosen" and "rejected" are
        whole sequences. Findings:

        - ``duplicates``: the same pair again; ``contradictions``: the same pair in reverse
        - ``identical``: both replies are the same text; ``identical_as_tokens``: only as tokens
        - ``overlong``: over ``max_length`` tokens; ``empty``: a reply without text
        - ``special_tokens``: user text that the tokenizer reads as special tokens
        - ``leaked``: evaluated rows whose prompt also occurs in a row that is trained on

        ``longer_is_better`` is the accuracy of preferring the longer reply, with ties as half. Far
        from 0.5, length alone explains the preferences.
        """
        return {
            "rows": self._row_count,
            "eval_rows": self.eval_count,
            "prompts": len(self._prompts),
            "pairs": pairs,
            "max_length": self._max_length,
            "invalid": {"count": self._invalid_count, "rows": self._invalid},
            "findings": {name: asdict(found) for name, found in self._findings.items()},
            "tokens": {name: lengths.document() for name, lengths in self._lengths.items()},
            "longer_is_better": self._longer_is_better / self._row_count
            if self._row_count
            else None,
        }


class _Lengths:
    """A histogram of token counts, with exact mean, quantiles and extremes."""

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
        """Return the smallest length that at least ``share`` of the rows do not exceed."""
        left = share * sum(self.counts.values())
        for length in sorted(self.counts):
            left -= self.counts[length]
            if left <= 0:
                return length
        return max(self.counts)


def _row_findings(row: TokenizedRow, prefix_length: int, max_length: int) -> Iterator[str]:
    """Yield the names of the findings that a row gives by itself."""
    longest = max(len(row.chosen_ids), len(row.rejected_ids))
    if row.row["chosen"] == row.row["rejected"]:
        yield "identical"
    elif prefix_length == longest:
        yield "identical_as_tokens"
    if longest > max_length:
        yield "overlong"
    if not all(_text(row.row[reply]).strip() for reply in REPLIES):
        yield "empty"
    if row.has_special_tokens:
        yield "special_tokens"


def _text(reply: str | list[dict[str, Any]]) -> str:
    """Return a reply's text; of a conversation, the last message's. Tool calls count as text."""
    if isinstance(reply, str):
        return reply
    if not reply:
        return ""
    return reply[-1]["content"] or str(reply[-1].get("tool_calls", ""))


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]
