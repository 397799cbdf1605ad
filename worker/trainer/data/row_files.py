"""Read stored rows from a canonical JSONL file: chunks, counts, samples and single rows."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

#: Size of a chunk of lines: enough for the threads of a tokenizer, small enough to bound memory.
CHUNK_ROWS = 1000
CHUNK_BYTES = 2 << 20
_READ_BYTES = 1 << 20


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file."""
    with Path(path).open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def chunks_of_lines(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a file in chunks."""
    chunk: list[bytes] = []
    size = 0
    with path.open("rb") as lines:
        for line in lines:
            chunk.append(line)
            size += len(line)
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def count_rows(path: Path) -> int:
    """Return the number of rows of a file, in which each row ends with a newline."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            count += block.count(b"\n")
    return count


def rows_at(path: Path, places: Collection[int]) -> dict[int, dict[str, Any]]:
    """Return the rows at some indices, which start at 0, by index."""
    wanted = frozenset(places)
    last = max(wanted, default=-1)
    found = {}
    with path.open("rb") as lines:
        for place, line in enumerate(lines):
            if place in wanted:
                found[place] = json.loads(line)
            if place >= last:
                break
    return found


def write_sample(path: Path, row_count: int, count: int, target: Path) -> None:
    """Write a random sample of ``count`` of a file's ``row_count`` rows to ``target``, in order.

    The same file gives the same sample.
    """
    drawn = set(random.Random(row_count).sample(range(row_count), count))  # noqa: S311
    with path.open("rb") as lines, target.open("wb") as sample:
        sample.writelines(line for place, line in enumerate(lines) if place in drawn)
