"""Preference pairs as token ids: which are trained on, which are held out, which are refused.

Pairs over the length limit are counted, named, or refused, never left out in silence.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
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
from worker.trainer.data.tokenized_rows import PairFile, TokenizedRow, tokenized_rows

LINES_NAMED = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair as token ids; ``line`` is where it stands in the uploaded file."""

    line: int
    chosen: Ids
    rejected: Ids
    margin: float | None
    slice: str | None
    prompt: bytes  # digest of the prompt: pairs of one prompt stay on one side of a split


@dataclass
class Tokenized:
    """What became of a file of pairs; the lists hold line numbers."""

    pairs: list[Pair] = field(default_factory=list)
    overlong: list[int] = field(default_factory=list)
    identical: list[int] = field(default_factory=list)
    with_special_tokens: list[int] = field(default_factory=list)
    longest: int = 0


def pair_files(
    order: WorkOrder, plan: TrainingPlan, tokenizer: PairTokenizer
) -> tuple[PairFile, PairFile | None]:
    """The order's training pairs and held-out pairs, with their places in the worker's cache."""
    if order.train_file is None:
        raise TrainerError(FailureCode.INTERNAL, "an order with a plan needs train_file")
    cache = order.token_cache and TokenCache(
        Path(order.token_cache), order.token_cache_bytes, drafts=Path()
    )
    identity = tokenizer.identity() if cache else {}

    def file(name: str, data: DatasetRef) -> PairFile:
        entry = cache.entry({**identity, "data": data.sha256}) if cache else None
        return PairFile(Path(name), entry)

    held_out = plan.data.eval and order.eval_file and file(order.eval_file, plan.data.eval)
    return file(order.train_file, plan.data.train), held_out or None


def tokenize(
    file: PairFile,
    tokenizer: PairTokenizer,
    watch: Callable[[TokenizedRow], None] = lambda _: None,
    hear: Callable[[int, str], None] = lambda *_: None,
) -> Tokenized:
    """Tokenise every pair of a file.

    ``watch`` is shown each row on the way, ``hear`` is told of the lines that cannot be rendered.

    Raises:
        TrainerFailure: dataset_invalid, naming lines, when a row cannot be rendered, has no
            tokens, or ends in the pad token; pairs_overlong when one (``overlong="error"``) or
            every row is too long.
    """
    done = Tokenized()
    refused: dict[str, list[int]] = {}

    def refuse(line: int, problem: str) -> None:
        refused.setdefault(problem, []).append(line)

    def cannot_render(line: int, problem: str) -> None:
        hear(line, problem)
        refuse(line, problem)

    for row in tokenized_rows(file, tokenizer, cannot_render):
        watch(row)
        if problem := _problem(row, tokenizer.plan):
            refuse(row.row["line"], problem)
        else:
            _take(row, tokenizer.plan, done)
    for problem, lines in refused.items():
        raise TrainerError(FailureCode.DATASET_INVALID, f"{_named(lines)}: {problem}")
    what = f"longer than max_length={tokenizer.plan.max_length} tokens"
    longest = f"the longest has {done.longest}"
    if not done.pairs:
        if not done.overlong:
            raise TrainerError(FailureCode.DATASET_INVALID, "the dataset has no rows")
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG, f"all {len(done.overlong)} pairs are {what} ({longest})"
        )
    if done.overlong and tokenizer.plan.overlong == "error":
        raise TrainerError(
            FailureCode.PAIRS_OVERLONG,
            f'{_named(done.overlong)}: {what} ({longest}); overlong="drop" leaves such pairs out',
        )
    return done


def split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """``(train, eval)``: whole prompts, drawn by a hash of seed and prompt, order kept.

    The same pairs and seed give the same split, whatever else is in the process. A prompt that is
    larger than the room left stays in training, so that the share is never exceeded, except that
    at least one prompt is held out.

    Raises:
        TrainerFailure: dataset_invalid when every pair has the same prompt.
    """
    groups: dict[bytes, int] = {}
    for pair in pairs:
        groups[pair.prompt] = groups.get(pair.prompt, 0) + 1
    if len(groups) < 2:
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            "every pair has the same prompt, so none can be held out without leaking into "
            "training; give an eval_dataset of its own",
        )
    salt = str(seed).encode()
    order = sorted(groups, key=lambda prompt: hashlib.sha256(salt + prompt).digest())
    room = int(len(pairs) * fraction)
    held_out: set[bytes] = set()
    for prompt in order:
        if groups[prompt] <= room:
            held_out.add(prompt)
            room -= groups[prompt]
    if not held_out:
        held_out = {min(order, key=lambda prompt: groups[prompt])}
    return (
        [p for p in pairs if p.prompt not in held_out],
        [p for p in pairs if p.prompt in held_out],
    )


def _problem(row: TokenizedRow, plan: TokenizationPlan) -> str | None:
    """Why nothing can be learned from a row, whatever its length."""
    if not len(row.chosen_ids) * len(row.rejected_ids):
        return "a reply has no tokens at all"
    if plan.pad_token_id in (row.chosen_ids[-1], row.rejected_ids[-1]):
        return (
            f"a text ends in {plan.pad_token!r}, which is this model's pad token, so its "
            "reward would be read one token early, and elsewhere after a reload"
        )
    return None


def _take(row: TokenizedRow, plan: TokenizationPlan, done: Tokenized) -> None:
    line, chosen, rejected = int(row.row["line"]), row.chosen_ids, row.rejected_ids
    longest = max(len(chosen), len(rejected))
    done.longest = max(done.longest, longest)
    if longest > plan.max_length:
        done.overlong.append(line)
        return
    if np.array_equal(chosen, rejected):
        done.identical.append(line)
    if row.has_special_tokens:
        done.with_special_tokens.append(line)
    margin, part = row.row.get("margin"), row.row.get("slice")
    done.pairs.append(Pair(line, chosen, rejected, margin, part, prompt_digest(row.row)))


def _named(lines: list[int]) -> str:
    named = ", ".join(str(line) for line in lines[:LINES_NAMED])
    more = f" and {len(lines) - LINES_NAMED} more" if len(lines) > LINES_NAMED else ""
    noun = "line" if len(lines) == 1 else "lines"
    return f"{noun} {named}{more}"


def prompt_digest(row: dict[str, Any]) -> bytes:
    """Of the explicit prompt, else of what both replies begin with: messages, or whole words.

    A row without either is a prompt of its own.
    """
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if not prompt:
        same = 0
        for ours, theirs in zip(chosen, rejected, strict=False):
            if ours != theirs:
                break
            same += 1
        prompt = chosen[:same]
        if isinstance(prompt, str):
            prompt = prompt[: len(prompt) - len(re.split(r"\s", prompt)[-1])]
    if not prompt:
        prompt = [chosen, rejected]
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()[:16]
