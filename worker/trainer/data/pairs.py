"""Preference pairs as token ids: tokenise a dataset, reject invalid pairs, hold out pairs.

Pairs that exceed the length limit are reported with their line numbers, or rejected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.domain.lifecycle import FailureCode
from app.domain.metric_names import EVAL, eval_group
from app.domain.plan import DatasetRef, TokenizationPlan, TrainingPlan
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import TokenCache
from worker.reward_model.truncation import fits_when_cut
from worker.trainer.data.findings import Finding
from worker.trainer.data.pair_records import JOINED_WORDS, SPECIAL_TOKENS
from worker.trainer.data.pair_table import Cut, PairTable
from worker.trainer.data.tokenized_file import (
    OnInvalid,
    OnRows,
    PairBlock,
    PairFile,
    TokenizedFile,
    drawn_pairs,
    tokenize_file,
)

#: Version of the format and the content of the records; part of the token cache's key.
RECORDS_VERSION = 1


OnBlock = Callable[[PairBlock, NDArray[np.bool_], NDArray[np.bool_]], None]


@dataclass
class TokenizedPairs:
    """The usable pairs of a file, and findings about its rows."""

    pairs: PairTable
    is_drawn: NDArray[np.bool_]  # per pair: whether it may be trained on (unless held out)
    overlong: Finding = field(default_factory=Finding)  # too long: dropped
    truncated: Finding = field(default_factory=Finding)  # truncated at the beginning, and used
    identical: Finding = field(default_factory=Finding)
    with_special_tokens: Finding = field(default_factory=Finding)
    with_joined_words: Finding = field(default_factory=Finding)
    unrenderable: dict[str, Finding] = field(default_factory=dict)  # by reason
    row_count: int = 0  # number of pairs plus number of rows that cannot be rendered
    longest: int = 0  # tokens of the longest sequence, including overlong ones

    @property
    def unrenderable_count(self) -> int:
        """Number of rows that cannot be rendered."""
        return sum(lines.count for lines in self.unrenderable.values())

    @property
    def drawn(self) -> PairTable:
        """The pairs to train on if none are held out."""
        return self.pairs.where(self.is_drawn)


@dataclass
class PairObserver:
    """Callbacks during the tokenisation of a file."""

    on_block: OnBlock = lambda _block, _drawn, _usable: None
    """Called with pairs, a mask of those drawn for training, and a mask of the usable ones."""
    on_invalid: OnInvalid = lambda _line, _problem: None
    on_rows: OnRows = lambda _count: None


def pair_files(
    order: WorkOrder, plan: TrainingPlan, tokenizer: PairTokenizer
) -> tuple[PairFile, dict[str, PairFile]]:
    """Return the training file and the eval files by group, with their token cache entries."""
    if order.train_file is None:
        raise TrainerError(FailureCode.INTERNAL, "the order has a plan but no train_file")
    cache = order.token_cache and TokenCache(Path(order.token_cache), order.token_cache_bytes)
    identity = {"records": RECORDS_VERSION, **tokenizer.identity()} if cache else {}

    def file(name: str, data: DatasetRef, pairs_per_row: int | None) -> PairFile:
        return PairFile(
            path=Path(name),
            entry=cache.entry({**identity, "data": data.sha256}) if cache else None,
            pairs_per_row=pairs_per_row,
            seed=plan.reward_arguments.seed,
            skippable_share=data.skippable_share,
            processes=order.processes,
        )

    eval_files = {}
    if plan.data.eval and order.eval_file:
        eval_files[EVAL] = file(order.eval_file, plan.data.eval, None)
    for name, eval_file in order.eval_files.items():
        eval_files[eval_group(name)] = file(eval_file, plan.data.eval_datasets[name], None)
    return file(order.train_file, plan.data.train, plan.data.pairs_per_prompt), eval_files


def tokenize_pairs(
    file: PairFile, tokenizer: PairTokenizer, observer: PairObserver | None = None
) -> TokenizedPairs:
    """Tokenise every pair of a file.

    Raises:
        TrainerError: dataset_invalid, with line numbers, if too many rows cannot be rendered, a
            text has no tokens or ends in the pad token, or all pairs have equal tokens;
            pairs_overlong if one row (with ``overlong="error"``) or every row is too long.
    """
    observer = observer or PairObserver()
    unrenderable: dict[str, Finding] = {}

    def skip(line: int, problem: str) -> None:
        observer.on_invalid(line, problem)
        unrenderable.setdefault(problem, Finding()).add(line)

    tokenized = tokenize_file(file, tokenizer, skip, observer.on_rows)
    is_drawn = drawn_pairs(file, tokenized.records)
    result = TokenizedPairs(
        pairs=PairTable(tokenized, np.arange(len(tokenized.records))), is_drawn=is_drawn
    )
    result.unrenderable = unrenderable
    problems = _add_blocks(result, tokenizer, observer)
    skipped = result.unrenderable_count
    result.row_count = len(tokenized.records) + skipped
    if skipped > file.skippable_share * result.row_count:
        problems = {**unrenderable, **problems}
    for problem, lines in problems.items():
        cause = ""
        if lines.count == result.row_count > 1:
            cause = _cause_in_all_rows(problem, result.row_count, tokenizer)
        raise TrainerError(FailureCode.DATASET_INVALID, f"{lines.sentence()}: {problem}{cause}")
    _check_lengths(result, tokenizer.plan)
    if result.identical.count == len(result.pairs):
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            f"{result.identical.sentence()}: chosen and rejected have the same tokens, so "
            "nothing can be learned; the chat template or the tokenizer removes the difference",
        )
    return result


def split_by_prompt(
    tokenized: TokenizedPairs, eval_fraction: float, seed: int
) -> tuple[PairTable, PairTable]:
    """Split into training and eval pairs by prompt, in the order of a hash of seed and prompt.

    The same pairs and seed give the same split in any process. The order of pairs is preserved. A
    prompt whose pairs would exceed the fraction stays in training, but at least one prompt is held
    out. For ranked rows, training gets the drawn pairs and the eval set gets all pairs.

    Raises:
        TrainerError: dataset_invalid if every pair has the same prompt.
    """
    pairs = tokenized.pairs
    digests = np.ascontiguousarray(pairs.column("prompt")).view("V16").reshape(-1)
    prompts, places, counts = np.unique(digests, return_inverse=True, return_counts=True)
    if len(prompts) < 2:
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            "every pair has the same prompt, so no pair can be held out without leaking into "
            "training; use a separate eval_dataset",
        )
    is_held_out = np.zeros(len(prompts), dtype=np.bool_)
    remaining = int(len(pairs) * eval_fraction)
    order = _shuffled(prompts, seed)
    for prompt in order:
        if counts[prompt] <= remaining:
            is_held_out[prompt] = True
            remaining -= counts[prompt]
        if not remaining:
            break
    if not is_held_out.any():
        is_held_out[min(order, key=lambda prompt: counts[prompt])] = True
    of_pairs = is_held_out[places]
    return pairs.where(~of_pairs & tokenized.is_drawn), pairs.where(of_pairs)


def _shuffled(prompts: NDArray[np.void], seed: int) -> NDArray[np.int64]:
    """Return the indices of the prompts in the order of a hash of seed and digest."""
    salt = str(seed).encode()
    hashes = bytearray()
    for prompt in prompts:
        hashes += hashlib.sha256(salt + prompt.tobytes()).digest()
    order: NDArray[np.int64] = np.argsort(np.frombuffer(hashes, dtype="V32"), kind="stable")
    return order


def _cause_in_all_rows(problem: str, total: int, tokenizer: PairTokenizer) -> str:
    """Return an explanation to append if every row has the same problem."""
    # A conversation has the marks of its turns, also around empty replies.
    if problem.startswith("a reply has no tokens") and not tokenizer.is_conversational:
        return f". This holds for all {total} rows: check which columns were read as the replies"
    return (
        f". This holds for all {total} rows, so the cause is probably the chat "
        "template or tokenizer and not the data: set training.chat_template, or use another base "
        "model"
    )


def _add_blocks(
    result: TokenizedPairs, tokenizer: PairTokenizer, observer: PairObserver
) -> dict[str, Finding]:
    """Collect findings, set ``result`` to the usable pairs, and return the problems by message."""
    problems: dict[str, Finding] = {}
    places = []
    max_length = tokenizer.plan.max_length
    cut = None
    if tokenizer.plan.overlong == "truncate_left":
        cut = Cut(kept=tokenizer.kept_tokens, max_length=max_length)
    for block in result.pairs.file.blocks():
        drawn = result.is_drawn[block.start : block.start + len(block.records)]
        is_usable = np.ones(len(block.records), dtype=np.bool_)
        for problem, mask in _problems(block, result.pairs.file, tokenizer):
            if (mask & is_usable).any():
                lines = block.records["line"][mask & is_usable].tolist()
                problems.setdefault(problem, Finding()).extend(lines)
            is_usable &= ~mask
        longest = np.maximum(block.chosen_lengths, block.rejected_lengths)
        result.longest = max(result.longest, int(longest.max(initial=0)))
        is_overlong = is_usable & (longest > max_length)
        is_truncated = np.zeros(len(longest), dtype=np.bool_)
        if cut is not None:
            prefix = block.records["prefix"]
            is_truncated = is_overlong & fits_when_cut(
                longest, prefix, kept=cut.kept, max_length=cut.max_length
            )
        is_overlong &= ~is_truncated
        is_usable &= ~is_overlong
        observer.on_block(block, drawn, is_usable)
        flags = block.records["flags"]
        for finding, mask in (
            (result.overlong, is_overlong),
            (result.truncated, is_truncated),
            (result.identical, is_usable & (block.records["prefix"] == longest)),
            (result.with_special_tokens, is_usable & (flags & SPECIAL_TOKENS > 0)),
            (result.with_joined_words, is_usable & (flags & JOINED_WORDS > 0)),
        ):
            finding.extend(block.records["line"][mask].tolist())
        places.append(block.start + np.flatnonzero(is_usable))
    usable = np.concatenate([np.empty(0, dtype=np.int64), *places])
    result.pairs = PairTable(result.pairs.file, usable, cut)
    result.is_drawn = result.is_drawn[usable]
    return problems


def _problems(
    block: PairBlock, file: TokenizedFile, tokenizer: PairTokenizer
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each problem that excludes pairs from training, except length, with its mask."""
    plan, largest = tokenizer.plan, block.records["largest"]
    is_empty = (block.chosen_lengths == 0) | (block.rejected_lengths == 0)
    yield "a reply has no tokens", is_empty
    if plan.embedding_rows is not None:
        for token_id in np.unique(largest[largest >= plan.embedding_rows]).tolist():
            token = tokenizer.tokenizer.convert_ids_to_tokens(token_id)
            yield (
                f"it contains {token!r}, which is token {token_id}, but the embedding of this "
                f"model has {plan.embedding_rows} rows: remove the token from the text",
                largest == token_id,
            )
    ends_in_pad = np.zeros(len(block.records), dtype=np.bool_)
    for side in ("chosen_text", "rejected_text"):
        texts = block.records[side][~is_empty]
        ends_in_pad[~is_empty] |= file.last_tokens(texts) == plan.pad_token_id
    yield (
        f"a text ends in {plan.pad_token!r}, which is this model's pad token: its reward would "
        "be read one token early, and at another token after a reload. training.pad_token can "
        "name another token",
        ends_in_pad,
    )


def _check_lengths(result: TokenizedPairs, plan: TokenizationPlan) -> None:
    limit = f"longer than max_length={plan.max_length} tokens"
    longest = f"the longest has {result.longest} tokens"
    if not len(result.pairs):
        if not result.overlong.count:
            raise TrainerError(FailureCode.DATASET_INVALID, "the dataset has no rows")
        replies = " without their prompts" if plan.overlong == "truncate_left" else ""
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG,
            f"all {result.overlong.count} pairs are {limit}{replies} ({longest})",
        )
    if result.overlong.count and plan.overlong == "error":
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG,
            f'{result.overlong.sentence()}: {limit} ({longest}); overlong="drop" drops such '
            'pairs, "truncate_left" cuts the beginning of their prompts',
        )
