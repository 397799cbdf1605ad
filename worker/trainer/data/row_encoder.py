"""Render and encode the rows of a file, in this process or in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.lifecycle import FailureCode
from worker.ipc.parent_death import die_with_parent
from worker.reward_model.chat_template import TemplateTooCostlyError, template_limits
from worker.reward_model.errors import TrainerError, unsupported_model
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.process_limits import TokenizerTooCostlyError, tokenizer_limits
from worker.reward_model.token_cache import Ids
from worker.trainer.data.pair_records import PAIR, Records, pair_records
from worker.trainer.data.row_files import chunks_of_lines

#: Smaller files are encoded faster than other processes can start.
PARALLEL_BYTES = 4 << 20
#: Limits of one call of the tokenizer. The slowest tokenizers, written in Python, encode 50,000
#: characters per second; ids and offsets take up to 120 bytes per token.
ENCODING_SECONDS, MIN_CHARACTERS_PER_SECOND = 60.0, 10_000
ENCODING_BYTES, BYTES_PER_CHARACTER = 1 << 30, 256


@dataclass
class EncodedRows:
    """A chunk of rows: the token ids of all texts, and the records of the pairs.

    The row, text and slice indices of the records are relative to the chunk.
    """

    row_count: int
    ids: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    lengths: Sequence[int] = ()
    records: Records = field(default_factory=lambda: np.empty(0, dtype=PAIR))
    slices: list[str] = field(default_factory=list)
    invalid: list[tuple[int, str]] = field(default_factory=list)
    """(line number, problem) of rows that cannot be rendered."""


@dataclass(frozen=True)
class EncodedRow:
    """A row, its place among the rows that were given, and the token ids of each reply's text."""

    place: int
    row: dict[str, Any]
    texts: list[list[int]]


def encode_rows(
    rows: Iterable[dict[str, Any]],
    tokenizer: PairTokenizer,
    on_invalid: Callable[[int, str], None],
) -> list[EncodedRow]:
    """Render and encode rows; call ``on_invalid`` with line and problem of each invalid one.

    Raises:
        TrainerError: model_unsupported when the chat template or the tokenizer exceeds a limit.
    """
    rendered: list[tuple[int, dict[str, Any], list[str]]] = []
    with template_limits():
        for place, row in enumerate(rows):
            try:
                rendered.append((place, row, tokenizer.render(row)))
            except TemplateTooCostlyError as error:
                raise unsupported_model(
                    f"the base model's chat template {error} for the pair in line {row['line']}; "
                    "set training.chat_template to another one"
                ) from error
            except Exception as error:  # noqa: BLE001 - a template may raise anything
                on_invalid(row["line"], f"the chat template cannot render this pair: {error}")
    if not rendered:
        return []
    encoded = iter(_encode_texts(tokenizer, [text for *_, texts in rendered for text in texts]))
    return [
        EncodedRow(place, row, list(islice(encoded, len(texts)))) for place, row, texts in rendered
    ]


def encode_lines(lines: Sequence[bytes], tokenizer: PairTokenizer) -> EncodedRows:
    """Render and encode rows.

    Raises:
        TrainerError: model_unsupported when the chat template exceeds a limit.
    """
    chunk = EncodedRows(row_count=len(lines))
    encoded = encode_rows(
        map(json.loads, lines), tokenizer, lambda *problem: chunk.invalid.append(problem)
    )
    if not encoded:
        return chunk
    first_text, ids, records = 0, [], []
    for each in encoded:
        texts = [np.asarray(text, dtype=np.int32) for text in each.texts]
        found = pair_records(each.row, texts, tokenizer, chunk.slices)
        found["row"] += each.place
        found["chosen_text"] += first_text
        found["rejected_text"] += first_text
        first_text += len(texts)
        ids += texts
        records.append(found)
    chunk.ids, chunk.lengths = np.concatenate(ids), [len(text) for text in ids]
    chunk.records = np.concatenate(records)
    return chunk


def _encode_texts(tokenizer: PairTokenizer, texts: list[str]) -> list[list[int]]:
    """Encode texts within limits that are proportional to their length.

    Raises:
        TrainerError: model_unsupported if the tokenizer exceeds them.
    """
    characters = sum(map(len, texts))
    cpu_seconds = ENCODING_SECONDS + characters / MIN_CHARACTERS_PER_SECOND
    memory_bytes = ENCODING_BYTES + BYTES_PER_CHARACTER * characters
    try:
        with tokenizer_limits(cpu_seconds, memory_bytes):
            return tokenizer.encode(texts)
    except TokenizerTooCostlyError as error:
        raise unsupported_model(f"the base model's tokenizer {error}") from error


def encode_file(path: Path, tokenizer: PairTokenizer, processes: int) -> Iterator[EncodedRows]:
    """Render and encode the rows of a file in their order; large files use several processes.

    Raises:
        TrainerError: model_unsupported if the chat template or the tokenizer exceeds a limit;
            out_of_memory if a process exceeds its memory; host_error if one is killed.
    """
    if processes < 2 or path.stat().st_size < PARALLEL_BYTES:
        for lines in chunks_of_lines(path):
            yield encode_lines(lines, tokenizer)
        return
    pool = ProcessPoolExecutor(
        processes,
        # Forked processes do not load the libraries again. Nothing has used CUDA yet.
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start_encoder,
        initargs=(tokenizer,),
    )
    encoders: list[BaseProcess] = []
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns about forks in a process with threads. The watchdog's thread holds
            # no lock that an encoder takes.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            pool.submit(os.getpid)  # starts all processes
            encoders += multiprocessing.active_children()
        yield from _in_order(pool, path, 2 * processes)
    except BrokenProcessPool as error:
        pool.shutdown(cancel_futures=True)  # waits for the processes
        raise _why_broken({encoder.exitcode for encoder in encoders}) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _why_broken(statuses: set[int | None]) -> TrainerError:
    """Return the error for encoder processes that ended with ``statuses``.

    A process that exceeds a limit of the tokenizer ends by that limit's signal. The pool ends the
    others with SIGTERM.
    """
    if -signal.SIGXCPU in statuses:
        return unsupported_model(
            "the base model's tokenizer exceeded its limit of CPU time for these texts"
        )
    if -signal.SIGABRT in statuses:
        return TrainerError(
            FailureCode.OUT_OF_MEMORY, "a tokenisation process exceeded its memory limit"
        )
    return TrainerError(
        FailureCode.HOST_ERROR,
        "a tokenisation process was killed, most likely because the memory ran out",
    )


def _in_order(pool: ProcessPoolExecutor, path: Path, ahead: int) -> Iterator[EncodedRows]:
    """Yield the results in the order of the file, with at most ``ahead`` chunks in progress."""
    waiting: deque[Future[EncodedRows]] = deque()
    for lines in chunks_of_lines(path):
        waiting.append(pool.submit(_encode, lines))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_encoder: PairTokenizer


def _start_encoder(tokenizer: PairTokenizer) -> None:
    """Set up an encoder process, which exits with the trainer and has one tokenizer thread."""
    global _encoder
    die_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder = tokenizer


def _encode(lines: list[bytes]) -> EncodedRows:
    return encode_lines(lines, _encoder)
