"""Pairs to token ids, exactly as TRL's RewardTrainer would make them, but never in silence.

Conversations are rendered by the plan's chat template (transformers compiles it in an immutable
sandbox) and tokenised without further special tokens; plain text gets an EOS where it has none and
the tokenizer's own special tokens. Pairs over the length limit are counted, named, or refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.domain.lifecycle import FailureCode
from app.domain.plan import TokenizationPlan
from worker.trainer.failures import TrainerFailure

Ids = NDArray[np.int32]
#: Rows for one call of the tokenizer: its threads need many, the texts must not fill the memory.
CHUNK_ROWS = 1000
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


class PairTokenizer:
    """The tokenizer of a plan: how a pair, or a rendered text, becomes ids."""

    def __init__(self, model_dir: str | Path, plan: TokenizationPlan, data_format: str) -> None:
        self.plan = plan
        self.is_conversational = data_format == "conversational"
        self.tokenizer = load_tokenizer(model_dir, plan)
        # Special tokens are parsed out of text wherever they stand: one ends a turn, or worse.
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special))) or r"(?!)")

    def render(self, row: dict[str, Any], reply: str) -> str:
        """The text of ``row`` with its ``reply`` ("chosen" or "rejected"), as it is tokenised.

        Raises:
            ValueError, jinja2.TemplateError: the chat template cannot render it.
        """
        if self.is_conversational:
            messages = row.get("prompt", []) + row[reply]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        text = str(row[reply])
        eos = self.tokenizer.eos_token
        if self.plan.append_eos and isinstance(eos, str) and not text.endswith(eos):
            text += eos
        return str(row.get("prompt", "")) + text

    def encode(self, rendered: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, neither padded nor truncated."""
        encoded = self.tokenizer(
            rendered,
            add_special_tokens=not self.is_conversational,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])

    def has_special_tokens(self, row: dict[str, Any]) -> bool:
        """Whether user text holds what the tokenizer takes for a special token."""
        return any(self._special.search(text) for text in _texts(row, self.tokenizer.eos_token))


def load_tokenizer(model_dir: str | Path, plan: TokenizationPlan) -> PreTrainedTokenizerBase:
    """The base model's tokenizer with the plan's pad token and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(
        str(model_dir), local_files_only=True, trust_remote_code=False
    )
    tokenizer.pad_token = plan.pad_token
    if tokenizer.pad_token_id != plan.pad_token_id:
        raise TrainerFailure(
            FailureCode.INTERNAL,
            f"the plan says that {plan.pad_token!r} is token {plan.pad_token_id}, the tokenizer "
            f"says {tokenizer.pad_token_id}: the model's files changed since the plan was made",
        )
    tokenizer.padding_side = "right"
    if plan.chat_template is not None:
        tokenizer.chat_template = plan.chat_template
    return tokenizer


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a canonical JSONL file."""
    with Path(path).open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def tokenize(path: str | Path, tokenizer: PairTokenizer) -> Tokenized:
    """Tokenise every pair of a canonical JSONL file.

    Raises:
        TrainerFailure: dataset_invalid, naming lines, when a row cannot be rendered, has no
            tokens, ends in the pad token, is too long (``overlong="error"``), or none is left.
    """
    done = Tokenized()
    rows = read_rows(path)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        _tokenize_chunk(chunk, tokenizer, done)
    limit = tokenizer.plan.max_length
    if done.overlong and tokenizer.plan.overlong == "error":
        raise _invalid(
            done.overlong,
            f"longer than max_length={limit} tokens (the longest has {done.longest}); "
            'raise training.max_length or use overlong="drop"',
        )
    if not done.pairs:
        raise TrainerFailure(
            FailureCode.DATASET_INVALID,
            f"all {len(done.overlong)} pairs are longer than max_length={limit} tokens (the "
            f"longest has {done.longest})"
            if done.overlong
            else "the dataset has no rows",
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
        raise TrainerFailure(
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


def _tokenize_chunk(rows: list[dict[str, Any]], tokenizer: PairTokenizer, done: Tokenized) -> None:
    texts = _render_all(rows, tokenizer)
    ids = [np.asarray(i, dtype=np.int32) for i in tokenizer.encode(texts)]
    chosen, rejected = ids[0::2], ids[1::2]
    empty = [
        r["line"] for r, c, d in zip(rows, chosen, rejected, strict=True) if not len(c) * len(d)
    ]
    if empty:
        raise _invalid(empty, "a reply has no tokens at all")
    padded = [
        row["line"]
        for row, *both in zip(rows, chosen, rejected, strict=True)
        if any(reply[-1] == tokenizer.plan.pad_token_id for reply in both)
    ]
    if padded:
        raise _invalid(
            padded,
            f"a text ends in {tokenizer.plan.pad_token!r}, which is this model's pad token, so its "
            "reward would be read one token early, and elsewhere after a reload",
        )
    for row, c, r in zip(rows, chosen, rejected, strict=True):
        line = int(row["line"])
        done.longest = max(done.longest, len(c), len(r))
        if max(len(c), len(r)) > tokenizer.plan.max_length:
            done.overlong.append(line)
            continue
        if np.array_equal(c, r):
            done.identical.append(line)
        if tokenizer.has_special_tokens(row):
            done.with_special_tokens.append(line)
        margin = row.get("margin")
        done.pairs.append(Pair(line, c, r, margin, row.get("slice"), prompt_digest(row)))


def _render_all(rows: list[dict[str, Any]], tokenizer: PairTokenizer) -> list[str]:
    """Chosen and rejected of each row, one after the other."""
    texts: list[str] = []
    for row in rows:
        try:
            texts += [tokenizer.render(row, "chosen"), tokenizer.render(row, "rejected")]
        except Exception as error:  # a template may raise anything
            raise _invalid([row["line"]], f"the chat template cannot render it: {error}") from error
    return texts


def _invalid(lines: list[int], problem: str) -> TrainerFailure:
    named = ", ".join(str(line) for line in lines[:LINES_NAMED])
    more = f" and {len(lines) - LINES_NAMED} more" if len(lines) > LINES_NAMED else ""
    noun = "line" if len(lines) == 1 else "lines"
    return TrainerFailure(FailureCode.DATASET_INVALID, f"{noun} {named}{more}: {problem}")


def _texts(row: dict[str, Any], eos: object) -> Iterable[str]:
    for key in ("prompt", "chosen", "rejected"):
        value = row.get(key, "")
        if isinstance(value, list):
            yield from (message["content"] for message in value)
        else:
            yield value.removesuffix(eos) if isinstance(eos, str) else value


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
