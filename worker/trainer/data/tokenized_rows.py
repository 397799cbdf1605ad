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

from app.domain.lifecycle import FailureCode
from worker.reward_model.chat_template import TemplateTooCostlyError
from worker.reward_model.errors import TrainerError, unsupported
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import CacheEntry, Ids

#: Rows for one call of the tokenizer: its threads need many, the texts must not fill the memory.
CHUNK_ROWS = 1000


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a canonical JSONL file."""
    with Path(path).open("rb") as lines:
        for line in lines:
            yield json.loads(line)


@dataclass(frozen=True)
class PairFile:
    """A canonical JSONL file of pairs, and where the cache has its token ids."""

    path: Path
    entry: CacheEntry | None = None


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row of the canonical dataset and the ids of both whole sequences, not truncated."""

    row: dict[str, Any]
    chosen_ids: Ids
    rejected_ids: Ids
    has_special_tokens: bool = False


def tokenized_rows(
    file: PairFile, tokenizer: PairTokenizer, refuse: Callable[[int, str], None]
) -> Iterator[TokenizedRow]:
    """Every row that can be rendered; ``refuse`` hears the line of each other one, and why.

    The ids come from the cache if they are there, and go there if all rows could be rendered.
    """
    known = file.entry.read() if file.entry else None
    encoded = _encoded(file, tokenizer, refuse) if known is None else _known(file.path, *known)
    for row, chosen, rejected in encoded:
        yield TokenizedRow(row, chosen, rejected, tokenizer.has_special_tokens(row))


def _encoded(
    file: PairFile, tokenizer: PairTokenizer, refuse: Callable[[int, str], None]
) -> Iterator[tuple[dict[str, Any], Ids, Ids]]:
    rows, is_whole = read_rows(file.path), True
    with file.entry.write() if file.entry else nullcontext() as writer:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            rendered: list[tuple[dict[str, Any], list[str]]] = []
            for row in chunk:
                _check_pair(row)
                try:
                    rendered.append((row, tokenizer.render(row)))
                except TemplateTooCostlyError as error:
                    raise unsupported(
                        f"its chat template {error}, line {row['line']} of the pairs; give the "
                        "catalogue entry a chat_template of its own"
                    ) from error
                except Exception as error:  # noqa: BLE001 - a template may raise anything
                    is_whole = False
                    refuse(row["line"], f"the chat template cannot render it: {error}")
            if not rendered:
                continue
            encoded = tokenizer.encode([text for _, texts in rendered for text in texts])
            ids = [np.asarray(i, dtype=np.int32) for i in encoded]
            if writer and is_whole:
                writer.add(ids)
            yield from zip((row for row, _ in rendered), ids[0::2], ids[1::2], strict=True)
        if writer and is_whole:
            writer.publish()


def _check_pair(row: dict[str, Any]) -> None:
    if "replies" in row:
        raise TrainerError(
            FailureCode.DATASET_INVALID,
            f"line {row['line']} holds ranked replies, which cannot be trained on yet; upload them "
            "as pairs, one per row",
        )


def _known(
    path: str | Path, ids: Ids, ends: NDArray[np.int64]
) -> Iterator[tuple[dict[str, Any], Ids, Ids]]:
    starts = np.concatenate(([0], ends))
    for number, row in enumerate(read_rows(path)):
        start, middle, end = starts[2 * number : 2 * number + 3]
        yield row, ids[start:middle], ids[middle:end]
