"""Build the dataset report, before training, in one pass over the records of the pairs.

The builder keeps only digests and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_names import EVAL
from worker.reward_model.pair_tokenizer import REPLIES
from worker.trainer.data.findings import MAX_LINES_LISTED, Finding
from worker.trainer.data.pair_records import EMPTY, IDENTICAL, SPECIAL_TOKENS
from worker.trainer.data.pair_table import PairTable
from worker.trainer.data.tokenized_file import PairBlock

#: Findings that depend on a single pair.
ROW_FINDINGS = (
    "identical",
    "identical_as_tokens",
    "overlong",
    "empty",
    "special_tokens",
)
_NO_KEYS = np.empty(0, dtype=np.uint64)
#: Multiplier that combines two digests; any odd number works.
_ODD = np.uint64(0x9E3779B97F4A7C15)
#: Upper bounds of the histogram's bins in tokens; a further bin has no bound.
BINS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class DatasetReportBuilder:
    """Builds the dataset report from blocks of training pairs and then of eval pairs.

    It keeps 40 bytes per training pair and 16 bytes per eval pair.
    """

    def __init__(self, max_length: int) -> None:
        self._eval_counts: dict[str, int] = {EVAL: 0}
        self._max_length = max_length
        self._invalid_count = 0
        self._invalid: list[dict[str, Any]] = []
        self._keys: list[NDArray[np.uint64]] = []  # of blocks: prompt, pair, reversed pair, line
        self._trained_prompts: list[NDArray[np.uint64]] = []  # of blocks
        self._eval_keys: dict[str, list[NDArray[np.uint64]]] = {EVAL: []}  # of blocks: prompt, line
        self._longer_is_better = 0.0
        self._lengths = {name: _Lengths() for name in ("prompt", *REPLIES)}
        self._row_findings = {name: Finding() for name in ROW_FINDINGS}

    @property
    def longest(self) -> int:
        """Number of tokens of the longest training sequence."""
        return max(0, *(max(self._lengths[reply].counts, default=0) for reply in REPLIES))

    @property
    def row_count(self) -> int:
        """Number of training pairs."""
        return len(self._columns[0])

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """Findings by name; read it after adding the last pair."""
        _, pairs, reversed_pairs, lines = self._columns
        is_reverse = _preceded_by(pairs, reversed_pairs) & (pairs != reversed_pairs)
        return {
            "duplicates": _finding(lines[_repeated(pairs)]),
            "contradictions": _finding(lines[is_reverse]),
            **self._row_findings,
            "leaked": self.leaked(EVAL),
        }

    def leaked(self, group: str) -> Finding:
        """Return the evaluated pairs of a group whose prompt is trained on."""
        prompts, lines = _columns(self._eval_keys[group], 2)
        is_leaked = np.isin(prompts, np.concatenate([_NO_KEYS, *self._trained_prompts]))
        return _finding(lines[is_leaked])

    def add_training(self, block: PairBlock, is_used: NDArray[np.bool_]) -> None:
        """Add training pairs; ``is_used`` marks those that are trained on."""
        self._trained_prompts.append(_prompts(block)[is_used])
        chosen, rejected = block.chosen_lengths, block.rejected_lengths
        records = block.records
        prefix = records["prefix"].astype(np.int64)
        for name, mask in _row_findings(block, self._max_length):
            self._row_findings[name].extend(records["line"][mask].tolist())
        self._longer_is_better += float(np.sum((chosen > rejected) + 0.5 * (chosen == rejected)))
        for name, lengths in (("prompt", prefix), ("chosen", chosen), ("rejected", rejected)):
            self._lengths[name].add(lengths)
        ours, theirs = records["chosen"], records["rejected"]
        self._keys.append(
            np.stack([_prompts(block), _key(ours, theirs), _key(theirs, ours), _lines(block)])
        )

    def add_eval(self, block: PairBlock, is_used: NDArray[np.bool_], group: str = EVAL) -> None:
        """Add pairs of an eval dataset, and which of them are evaluated."""
        self._eval_counts[group] = self._eval_counts.get(group, 0) + len(block.records)
        block = block.where(is_used)
        keys = np.stack([_prompts(block), _lines(block)])
        self._eval_keys.setdefault(group, []).append(keys)

    def train_on(self, pairs: PairTable) -> None:
        """Set which pairs are trained on, after the split from the held-out ones."""
        self._trained_prompts = [pairs.records["prompt"][:, 0]]

    def add_invalid_row(self, dataset: str, line: int, error: str) -> None:
        """Add a row of the "training" or an eval dataset that cannot be tokenised."""
        self._invalid_count += 1
        if len(self._invalid) < MAX_LINES_LISTED:
            self._invalid.append({"dataset": dataset, "line": line, "error": error})

    def build(self, pairs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the report as JSON values; ``pairs`` is the result of ``count_pairs``, if known.

        ``tokens`` are lengths in tokens: "prompt" is the common prefix of both sequences, "chosen"
        and "rejected" are whole sequences. Findings:

        - ``duplicates``: the same pair again; ``contradictions``: the same pair in reverse
        - ``identical``: both replies are the same text; ``identical_as_tokens``: only as tokens
        - ``overlong``: longer than ``max_length`` tokens; ``empty``: a reply without text
        - ``special_tokens``: user text that the tokenizer reads as special tokens
        - ``leaked``: evaluated pairs whose prompt also occurs in a training pair

        ``longer_is_better`` is the accuracy of preferring the longer reply; a tie counts as half.
        If it is far from 0.5, length alone explains many preferences.

        ``eval_datasets`` has the rows and the leaked rows of each named eval dataset, if any.
        """
        count = self.row_count
        named = {
            group.removeprefix(f"{EVAL}_"): {"rows": rows, "leaked": asdict(self.leaked(group))}
            for group, rows in self._eval_counts.items()
            if group != EVAL
        }
        return {
            "rows": count,
            "eval_rows": self._eval_counts[EVAL],
            **({"eval_datasets": named} if named else {}),
            "prompts": len(np.unique(self._columns[0])),
            "pairs": pairs,
            "max_length": self._max_length,
            "invalid": {"count": self._invalid_count, "rows": self._invalid},
            "findings": {name: asdict(found) for name, found in self.findings.items()},
            "tokens": {name: lengths.document() for name, lengths in self._lengths.items()},
            "longer_is_better": self._longer_is_better / count if count else None,
        }

    @cached_property
    def _columns(self) -> NDArray[np.uint64]:
        return _columns(self._keys, 4)


def _columns(blocks: list[NDArray[np.uint64]], count: int) -> NDArray[np.uint64]:
    empty = np.empty((count, 0), dtype=np.uint64)
    columns: NDArray[np.uint64] = np.concatenate([empty, *blocks], axis=1)
    return columns


def _finding(lines: NDArray[np.uint64]) -> Finding:
    return Finding(len(lines), lines[:MAX_LINES_LISTED].tolist())


def _prompts(block: PairBlock) -> NDArray[np.uint64]:
    """Return 64 bits of each prompt's digest.

    A million prompts have a collision with a probability of about 3e-8.
    """
    prompts: NDArray[np.uint64] = block.records["prompt"][:, 0]
    return prompts


def _lines(block: PairBlock) -> NDArray[np.uint64]:
    lines: NDArray[np.uint64] = block.records["line"].astype(np.uint64)
    return lines


def _key(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a digest of two digests that depends on their order."""
    key: NDArray[np.uint64] = ours * _ODD + theirs
    return key


def _repeated(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return a mask of the keys that occurred before."""
    is_repeated = np.ones(len(keys), dtype=np.bool_)
    is_repeated[np.unique(keys, return_index=True)[1]] = False
    return is_repeated


def _preceded_by(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return where ``wanted[i]`` is one of ``keys[:i]``."""
    if not len(keys):
        return np.zeros(0, dtype=np.bool_)
    known, first = np.unique(keys, return_index=True)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    is_preceded: NDArray[np.bool_] = (known[at] == wanted) & (first[at] < np.arange(len(keys)))
    return is_preceded


class _Lengths:
    """Histogram of token counts, with exact mean, quantiles and extremes."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, lengths: NDArray[np.int64]) -> None:
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            self.counts[int(length)] = self.counts.get(int(length), 0) + int(count)

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


def _row_findings(block: PairBlock, max_length: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each finding that depends on a single pair, with a mask of its pairs."""
    flags, prefix = block.records["flags"], block.records["prefix"]
    longest = np.maximum(block.chosen_lengths, block.rejected_lengths)
    is_identical = flags & IDENTICAL > 0
    are_tokens_equal = prefix == longest
    yield "identical", is_identical
    yield "identical_as_tokens", are_tokens_equal & ~is_identical
    yield "overlong", longest > max_length
    yield "empty", flags & EMPTY > 0
    yield "special_tokens", flags & SPECIAL_TOKENS > 0
