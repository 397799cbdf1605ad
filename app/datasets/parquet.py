"""Parquet → rows, parsed in a child process that a hostile file may fill or crash.

Arrow allocates what a file's metadata ask for: some 300 bytes can ask for 4 GB (apache/arrow
49955). So the child has a memory and a CPU limit and no environment, and what it writes is read as
suspiciously as an upload of JSONL.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import IO

from app.datasets import parquet_child
from app.datasets.byte_streams import at_most, check_ratio, split_lines
from app.datasets.file_types import HEAD_BYTES, PARQUET, file_type, wrong_format
from app.datasets.json_rows import json_row
from app.datasets.row_errors import FileError, Row, RowError

STALL_SECONDS = 60
_READ_BYTES = 256 << 10
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")


def parquet_rows(path: Path, max_rows: int, max_bytes: int) -> Generator[Row]:
    """Numbered rows, from 1; ``max_bytes`` bounds them written as JSON.

    Close the iterator to end the child early.

    Raises:
        FileError: no Parquet, unreadable, too large, too slow, or a column that is no text.
    """
    with path.open("rb") as file:
        kind = file_type(file.read(HEAD_BYTES))
    if kind is not None and kind is not PARQUET:
        raise wrong_format(kind, PARQUET)
    lines = split_lines(at_most(_child_output(path, max_rows), max_bytes))
    for number, line in enumerate(lines, 1):
        if line.startswith(b"["):
            raise FileError(*json.loads(line))
        try:
            yield number, json_row(line)
        except RowError as error:
            yield number, error


def _child_output(path: Path, max_rows: int) -> Generator[bytes]:
    packed, unpacked = path.stat().st_size, 0
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    # -I and the file itself, not -m: no code and no settings but the interpreter's and Arrow's.
    command = [sys.executable, "-I", parquet_child.__file__, os.fspath(path), str(max_rows)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
        bufsize=0,
    )
    assert child.stdout is not None
    try:
        while chunk := _read(child.stdout):
            unpacked += len(chunk)
            check_ratio(packed, unpacked)
            yield chunk
        if child.wait(STALL_SECONDS):
            raise _unreadable(f"its reader ended with status {child.returncode}")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _read(pipe: IO[bytes]) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if not selector.select(STALL_SECONDS):
            raise _unreadable(f"nothing came out of it for {STALL_SECONDS} s")
    return os.read(pipe.fileno(), _READ_BYTES)


def _unreadable(why: str) -> FileError:
    return FileError(
        "unreadable_parquet",
        f"the file could not be read as Parquet: {why}",
        "write it again, with smaller row groups, or send JSONL",
    )
