"""Preference pairs as token ids: tokenise a dataset, refuse invalid pairs, hold pairs out.

Pairs that exceed the length limit are counted and named, or refused. None is dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.lifecycle import FailureCode
from app.domain.plan import DatasetRef, TokenizationPlan, TrainingPlan
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import Ids, TokenCache
from worker.reward_model.truncation import truncate_pair
from worker.trainer.data.tokenized_rows import OnInvalid, PairFile, TokenizedRow, tokenized_rows

#: Called with each row that can be rendered, and whether its pair is used.
OnRow = Callable[[TokenizedRow, bool], None]
#: Line numbers that a message lists.
MAX_LINES_LISTED = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair as token ids."""

    line: int  # in the uploaded file
    chosen: Ids
    rejected: Ids
    margin: float | None
    slice: str | None
    prompt: bytes  # digest of the prompt: a split keeps the pairs of a prompt together
    replies: tuple[int, int] | None = None  # of a ranked row; all of its pairs have its line
    is_drawn: bool = True  # whether it is trained on, unless it is held out


@dataclass
class TokenizedPairs:
    """The usable pairs of a file, and the line numbers of noteworthy ones."""

    pairs: list[Pair] = field(default_factory=list)
    overlong: list[int] = field(default_factory=list)  # dropped
    truncated: list[int] = field(default_factory=list)  # cut at the beginning, and used
    identical: list[int] = field(default_factory=list)
    with_special_tokens: list[int] = field(default_factory=list)
    with_joined_words: list[int] = field(default_factory=list)
    unrenderable: dict[str, list[int]] = field(default_factory=dict)  # lines by reason
    row_count: int = 0  # pairs, and rows that cannot be rendered
    longest: int = 0  # tokens of the longest sequence, overlong ones included


def pair_files(
    order: WorkOrder, plan: TrainingPlan, tokenizer: PairTokenizer
) -> tuple[PairFile, PairFile | None]:
    """Return the order's training file and eval file, with their entries in the token cache."""
    if order.train_file is None:
        raise TrainerError(FailureCode.INTERNAL, "the order has a plan but no train_file")
    cache = order.token_cache and TokenCache(
        Path(order.token_cache), order.token_cache_bytes, draft_dir=Path()
    )
    identity = tokenizer.identity() if cache else {}

    def file(name: str, data: DatasetRef, pairs_per_row: int | None) -> PairFile:
        entry = cache.entry({**identity, "data": data.sha256}) if cache else None
        seed = plan.reward_arguments.seed
        return PairFile(Path(name), entry, pairs_per_row, seed, data.skippable_share)

    eval_file = plan.data.eval and order.eval_file and file(order.eval_file, plan.data.eval, None)
    train_file = file(order.train_file, plan.data.train, plan.data.pairs_per_prompt)
    return train_file, eval_file or None


def tokenize_pairs(
    file: PairFile,
    tokenizer: PairTokenizer,
    on_row: OnRow = lambda *_: None,
    on_invalid: OnInvalid = lambda *_: None,
) -> TokenizedPairs:
    """Tokenise every pair of a file.

    ``on_row`` is called with each row and whether it is used, ``on_invalid`` for each row that
    cannot be rendered.

    Raises:
        TrainerError: dataset_invalid, with line numbers, when more rows than may be skipped cannot
            be rendered, one has no tokens or ends in the pad token, or no pair differs in its
            tokens; pairs_overlong when one (``overlong="error"``) or every row is too long.
    """
    result = TokenizedPairs()
    lines_by_problem: dict[str, list[int]] = {}

    def skip(line: int, problem: str) -> None:
        on_invalid(line, problem)
        result.unrenderable.setdefault(problem, []).append(line)
        result.row_count += 1

    for row in tokenized_rows(file, tokenizer, skip):
        result.row_count += 1
        if problem := _problem(row, tokenizer):
            lines_by_problem.setdefault(problem, []).append(row.row["line"])
        on_row(row, not problem and _add(row, tokenizer, result))
    unrenderable = sum(map(len, result.unrenderable.values()))
    if unrenderable > file.skippable_share * result.row_count:
        lines_by_problem = {**result.unrenderable, **lines_by_problem}
    for problem, lines in lines_by_problem.items():
        cause = _cause(problem, len(lines), result.row_count)
        raise TrainerError(FailureCode.DATASET_INVALID, f"{_list_lines(lines)}: {problem}{cause}")
    _check_lengths(result, tokenizer.plan)
    if len(result.identical) == len(result.pairs):
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            f"{_list_lines(result.identical)}: chosen and rejected have the same tokens, so "
            "nothing can be learned; what tells them apart is left out or changed by the chat "
            "template or the tokenizer",
        )
    return result


def split_by_prompt(
    pairs: list[Pair], eval_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split into training and eval pairs: whole prompts, chosen by a hash of seed and prompt.

    The same pairs and seed give the same split in any process, and the order of pairs is kept. A
    prompt with more pairs than the eval set can still take stays in training, so that the fraction
    is not exceeded, except that at least one prompt is held out. Of a ranked row training gets the
    drawn pairs, the eval set all.

    Raises:
        TrainerError: dataset_invalid when every pair has the same prompt.
    """
    counts: dict[bytes, int] = {}
    for pair in pairs:
        counts[pair.prompt] = counts.get(pair.prompt, 0) + 1
    if len(counts) < 2:
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            "every pair has the same prompt, so no pair can be held out without leaking into "
            "training; use a separate eval_dataset",
        )
    salt = str(seed).encode()
    order = sorted(counts, key=lambda prompt: hashlib.sha256(salt + prompt).digest())
    remaining = int(len(pairs) * eval_fraction)
    held_out: set[bytes] = set()
    for prompt in order:
        if counts[prompt] <= remaining:
            held_out.add(prompt)
            remaining -= counts[prompt]
    if not held_out:
        held_out = {min(order, key=lambda prompt: counts[prompt])}
    return (
        [p for p in pairs if p.prompt not in held_out and p.is_drawn],
        [p for p in pairs if p.prompt in held_out],
    )


def prompt_digest(row: dict[str, Any]) -> bytes:
    """Return the digest of a row's prompt.

    Without an explicit prompt it is the common beginning of both replies: whole messages, or whole
    words. A row without either is a prompt of its own.
    """
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if not prompt:
        common = 0
        for ours, theirs in zip(chosen, rejected, strict=False):
            if ours != theirs:
                break
            common += 1
        prompt = chosen[:common]
        if isinstance(prompt, str):
            prompt = prompt[: len(prompt) - len(re.split(r"\s", prompt)[-1])]
    if not prompt:
        prompt = [chosen, rejected]
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()[:16]


def _cause(problem: str, count: int, total: int) -> str:
    """Return what to add where every row has the same problem: then no single row is to blame."""
    if count < total or total == 1:
        return ""
    if problem.startswith("a reply has no tokens"):
        return f". This holds for all {total} rows: check which columns were read as the replies"
    return (
        f". This holds for all {total} rows, so the cause is probably the chat "
        "template or tokenizer and not the data: set training.chat_template, or use another base "
        "model"
    )


def _check_lengths(result: TokenizedPairs, plan: TokenizationPlan) -> None:
    limit = f"longer than max_length={plan.max_length} tokens"
    longest = f"the longest has {result.longest} tokens"
    if not result.pairs:
        if not result.overlong:
            raise TrainerError(FailureCode.DATASET_INVALID, "the dataset has no rows")
        replies = " without their prompts" if plan.overlong == "truncate_left" else ""
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG,
            f"all {len(result.overlong)} pairs are {limit}{replies} ({longest})",
        )
    if result.overlong and plan.overlong == "error":
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG,
            f'{_list_lines(result.overlong)}: {limit} ({longest}); overlong="drop" drops such '
            'pairs, "truncate_left" cuts the beginning of their prompts',
        )


def _problem(row: TokenizedRow, tokenizer: PairTokenizer) -> str | None:
    """Return why a row cannot be trained on, whatever its length."""
    plan = tokenizer.plan
    if not len(row.chosen_ids) * len(row.rejected_ids):
        return "a reply has no tokens"
    largest = max(int(row.chosen_ids.max()), int(row.rejected_ids.max()))
    if plan.embedding_rows is not None and largest >= plan.embedding_rows:
        token = tokenizer.tokenizer.convert_ids_to_tokens(largest)
        return (
            f"it contains {token!r}, which is token {largest}, but the embedding of this model has "
            f"{plan.embedding_rows} rows: remove the token from the text"
        )
    if plan.pad_token_id in (row.chosen_ids[-1], row.rejected_ids[-1]):
        return (
            f"a text ends in {plan.pad_token!r}, which is this model's pad token: its reward would "
            "be read one token early, and at another token after a reload. training.pad_token can "
            "name another token"
        )
    return None


def _add(row: TokenizedRow, tokenizer: PairTokenizer, result: TokenizedPairs) -> bool:
    """Add a row to the pairs, unless it is too long; return whether it was added."""
    plan = tokenizer.plan
    line, chosen, rejected = int(row.row["line"]), row.chosen_ids, row.rejected_ids
    longest = max(len(chosen), len(rejected))
    result.longest = max(result.longest, longest)
    if longest > plan.max_length:
        cut = None
        if plan.overlong == "truncate_left":
            kept = tokenizer.kept_tokens
            cut = truncate_pair(chosen, rejected, kept=kept, max_length=plan.max_length)
        if cut is None:
            result.overlong.append(line)
            return False
        result.truncated.append(line)
        chosen, rejected = cut
    if np.array_equal(chosen, rejected):
        result.identical.append(line)
    if row.has_special_tokens:
        result.with_special_tokens.append(line)
    if tokenizer.joins_words(row.row):
        result.with_joined_words.append(line)
    result.pairs.append(
        Pair(
            line,
            chosen,
            rejected,
            row.row.get("margin"),
            row.row.get("slice"),
            prompt_digest(row.row),
            row.replies,
            row.is_drawn,
        )
    )
    return True


def _list_lines(lines: Sequence[int]) -> str:
    listed = ", ".join(str(line) for line in lines[:MAX_LINES_LISTED])
    more = f" and {len(lines) - MAX_LINES_LISTED} more" if len(lines) > MAX_LINES_LISTED else ""
    noun = "line" if len(lines) == 1 else "lines"
    return f"{noun} {listed}{more}"
