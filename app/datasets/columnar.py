"""Read rows of Parquet and Arrow files in a child process, which a hostile file may crash.

Arrow allocates as much memory as a file's metadata request: 300 bytes can request 4 GB
(apache/arrow 49955). Therefore the child has a memory limit, a CPU limit and no environment, and
its output is checked like an upload of JSONL.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path

from app.datasets import arrow_child
from app.datasets.byte_streams import at_most, check_ratio, split_lines
from app.datasets.file_types import (
    ARROW,
    ARROW_STREAM,
    HEAD_BYTES,
    PARQUET,
    file_type,
    wrong_format,
)
from app.datasets.json_rows import json_row
from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, Row, RowError, shown
from app.datasets.shapes.table import USED_COLUMNS
from app.datasets.spooling import SpooledFile
from app.datasets.unused import SOMETIMES_PROMPTS, is_harmless, plain_name

STALL_SECONDS = 60
#: Memory for a larger piece is requested from the system, and cleared by it, for each piece.
_READ_BYTES = 64 << 10
_PIPE_BYTES = 256 << 10
#: Makes the child return all but a few MiB of a batch before it reads the next one. If it returned
#: all, requesting memory would take longer than reading the file.
_MEMORY = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(2 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
}
_USED_NAMES = frozenset(name.lower() for name in USED_COLUMNS)
#: Columns with harmless names that tell which of two responses is better.
_VERDICTS = re.compile(r".*(score|rating|reward).*|model_[ab]")
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")


def columnar_rows(
    file: SpooledFile, max_rows: int, max_bytes: int, options: ReadOptions | None = None
) -> Generator[Row]:
    """Yield the rows with their numbers, which start at 1.

    ``max_bytes`` limits the size of the rows as JSON. Columns that neither a shape nor the mapping
    of ``options`` reads and whose names are harmless, and the columns to ignore, are null. Close
    the iterator to end the child early.

    Raises:
        FileError: the file has another format, is unreadable, too large or too slow to read, or a
            used column has a type that JSON cannot represent.
    """
    with _Child(file.path, "rows", str(max_rows)) as child:
        file.receive()
        with file.path.open("rb") as received:
            kind = file_type(received.read(HEAD_BYTES))
        if kind is not None and kind not in (PARQUET, ARROW, ARROW_STREAM):
            raise wrong_format(kind, PARQUET)
        lines = split_lines(at_most(child.output(), max_bytes))
        for number, line in enumerate(lines):
            if line.startswith(b"["):
                raise FileError(*json.loads(line))
            if number == 0:
                child.answer(*_wanted(_schema(line), options or ReadOptions()))
                continue
            try:
                yield number, json_row(line)
            except RowError as error:
                yield number, error


def unpacked_zstd(file: SpooledFile) -> Generator[bytes]:
    """Decompress a Zstandard file.

    Raises:
        FileError: the file is broken, or unpacks to more than 100 times its size.
    """
    with _Child(file.path, "zstd") as child:
        file.receive()
        yield from child.output()


def _schema(line: bytes) -> list[tuple[str, str, bool]]:
    try:
        columns = json_row(line)["columns"]
        return [(str(name), str(kind), bool(is_plain)) for name, kind, is_plain in columns]
    except (RowError, KeyError, TypeError, ValueError):
        raise _unreadable("its reader returned no list of columns") from None


def _wanted(
    columns: Iterable[tuple[str, str, bool]], options: ReadOptions
) -> tuple[list[str], list[str]]:
    """Return the columns to read, which can be a part of a pair, and those that a shape names."""
    mapped = set(options.columns.values())
    mapped |= {path.partition(".")[0] for path in mapped}
    wanted, parts = [], []
    for name, kind, is_plain in columns:
        # Shapes are also recognised by names in another spelling.
        plain = plain_name(name)
        is_part = name in mapped or plain in _USED_NAMES
        is_needed = (
            plain.startswith(("chosen", "rejected"))
            or plain in SOMETIMES_PROMPTS
            or _VERDICTS.fullmatch(plain)
        )
        if name in options.ignore_columns or (is_harmless(name) and not is_part and not is_needed):
            continue
        if not is_plain and is_part:
            raise FileError(
                "unsupported_type",
                f"the column {shown(name)} is of the Arrow type {kind}",
                "give strings, lists of {role, content} structs, and numbers",
                column=shown(name)[1:-1],
            )
        wanted.append(name)
        if is_part:
            parts.append(name)
    return wanted, parts


class _Child:
    """Child process that parses a file; a context manager, which kills it at the end.

    It takes a while to start, so it starts before the file is received.
    """

    def __init__(self, path: Path, *arguments: str) -> None:
        self._path = path
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # -I with the file itself, not -m: only the interpreter's and Arrow's code is loaded.
        self._process = subprocess.Popen(
            [sys.executable, "-I", arrow_child.__file__, os.fspath(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | _MEMORY,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._poll = select.poll()
        self._poll.register(self._process.stdout, select.POLLIN)
        with suppress(OSError, AttributeError):  # too many large pipes; not on this system
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def output(self) -> Generator[bytes]:
        """Let the child read the file, yield its output, and check the compression ratio.

        Raises:
            FileError: the file unpacks to too many bytes, or the child hangs or dies.
        """
        self._tell(b"")
        packed, unpacked = self._path.stat().st_size, 0
        while chunk := self._read():
            unpacked += len(chunk)
            check_ratio(packed, unpacked)
            yield chunk
        status = self._process.wait(STALL_SECONDS)
        if status == arrow_child.BROKEN_ARCHIVE:
            raise FileError("invalid_archive", "the zstd data are broken", "compress it again")
        if status:
            raise _unreadable(f"its reader exited with status {status}")

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        if not self._poll.poll(1000 * STALL_SECONDS):
            raise _unreadable(f"its reader wrote nothing for {STALL_SECONDS} s")
        return os.read(self._process.stdout.fileno(), _READ_BYTES)

    def answer(self, columns: list[str], parts: list[str]) -> None:
        """Send the child the names of the columns to read, and of those that must be finite."""
        self._tell(json.dumps([columns, parts]).encode())

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the child died; its output has the reason
            self._process.stdin.write(line + b"\n")


def _unreadable(why: str) -> FileError:
    return FileError(
        "unreadable_parquet",
        f"the file could not be read: {why}",
        "write it again, with smaller row groups, or send JSONL",
    )
