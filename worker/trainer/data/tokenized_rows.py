"""Read the canonical rows of a dataset and tokenise them, through the token cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.rows import as_pair, chosen_pairs, ranked_pairs, replies_of
from worker.reward_model.chat_template import TemplateTooCostlyError
from worker.reward_model.errors import unsupported_model
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.process_limits import TokenizerTooCostlyError, tokenizer_limits
from worker.reward_model.token_cache import CacheEntry, Ids

#: Rows per call of the tokenizer: enough for its threads, few enough to bound the memory.
CHUNK_ROWS = 1000

#: What the tokenizer may use for one call. The slowest tokenizers, in Python, encode 50,000
#: characters a second; ids and offsets take up to 120 bytes a token.
ENCODING_SECONDS, MIN_CHARACTERS_PER_SECOND = 60.0, 10_000
ENCODING_BYTES, BYTES_PER_CHARACTER = 1 << 30, 256

#: Called with the line number and the problem of a row that cannot be tokenised.
OnInvalid = Callable[[int, str], None]


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a canonical JSONL file."""
    with Path(path).open("rb") as lines:
        for line in lines:
            yield json.loads(line)


@dataclass(frozen=True)
class PairFile:
    """A canonical JSONL file of pairs, and its entry in the token cache if there is a cache."""

    path: Path
    entry: CacheEntry | None = None
    pairs_per_row: int | None = None
    """Pairs of a ranked row to train on, drawn with ``seed``; None: all."""
    seed: int = 0
    skippable_share: float = 0.0
    """Share of rows that may be left out because they cannot be rendered."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A pair of the canonical dataset and the ids of both whole sequences, not truncated."""

    row: dict[str, Any]
    chosen_ids: Ids
    rejected_ids: Ids
    has_special_tokens: bool = False
    replies: tuple[int, int] | None = None
    """Which of the replies of a ranked row they are."""
    is_drawn: bool = True
    """Whether it is one of the pairs of its row to train on."""


def tokenized_rows(
    file: PairFile, tokenizer: PairTokenizer, on_invalid: OnInvalid
) -> Iterator[TokenizedRow]:
    """Yield every pair of the rows that can be rendered; call ``on_invalid`` for the others.

    Token ids are read from the cache if they are there. Otherwise they are written to it, provided
    that all rows can be rendered.
    """
    cached = file.entry.read() if file.entry else None
    if cached is None:
        encoded = _encode_rows(file, tokenizer, on_invalid)
    else:
        ids, ends = cached
        encoded = _cached_rows(file.path, ids, ends)
    for stored, texts in encoded:
        has_special_tokens = tokenizer.has_special_tokens(stored)
        row = tokenizer.prepared(stored)
        if "replies" not in row:
            yield TokenizedRow(row, texts[0], texts[1], has_special_tokens)
            continue
        drawn = set(chosen_pairs(row, file.pairs_per_row, file.seed))
        for pair in ranked_pairs(row):
            better, worse = pair
            yield TokenizedRow(
                as_pair(row, better, worse),
                texts[better],
                texts[worse],
                has_special_tokens,
                replies=pair,
                is_drawn=pair in drawn,
            )


def _encode_rows(
    file: PairFile, tokenizer: PairTokenizer, on_invalid: OnInvalid
) -> Iterator[tuple[dict[str, Any], list[Ids]]]:
    rows, are_all_valid = read_rows(file.path), True
    with file.entry.write() if file.entry else nullcontext() as writer:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            rendered: list[tuple[dict[str, Any], list[str]]] = []
            for row in chunk:
                try:
                    rendered.append((row, tokenizer.render(row)))
                except TemplateTooCostlyError as error:
                    raise unsupported_model(
                        f"the base model's chat template {error} for the pair in line "
                        f"{row['line']}; set training.chat_template to another one"
                    ) from error
                except Exception as error:  # noqa: BLE001 - a template may raise anything
                    are_all_valid = False
                    on_invalid(row["line"], f"the chat template cannot render this pair: {error}")
            if not rendered:
                continue
            encoded = _encode(tokenizer, [text for _, texts in rendered for text in texts])
            ids = [np.asarray(i, dtype=np.int32) for i in encoded]
            if writer and are_all_valid:
                writer.add(ids)
            rest = iter(ids)
            for row, texts in rendered:
                yield row, list(islice(rest, len(texts)))
        if writer and are_all_valid:
            writer.publish()


def _encode(tokenizer: PairTokenizer, texts: list[str]) -> list[list[int]]:
    """Encode texts within limits that grow with their length.

    Raises:
        TrainerError: model_unsupported, the tokenizer exceeds them.
    """
    characters = sum(map(len, texts))
    cpu_seconds = ENCODING_SECONDS + characters / MIN_CHARACTERS_PER_SECOND
    memory_bytes = ENCODING_BYTES + BYTES_PER_CHARACTER * characters
    try:
        with tokenizer_limits(cpu_seconds, memory_bytes):
            return tokenizer.encode(texts)
    except TokenizerTooCostlyError as error:
        raise unsupported_model(f"the base model's tokenizer {error}") from error


def _cached_rows(
    path: Path, ids: Ids, ends: NDArray[np.int64]
) -> Iterator[tuple[dict[str, Any], list[Ids]]]:
    start = number = 0
    for row in read_rows(path):
        count = len(replies_of(row))
        texts = []
        for end in ends[number : number + count].tolist():
            texts.append(ids[start:end])
            start = end
        number += count
        yield row, texts
