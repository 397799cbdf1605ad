"""Measure how fast uploads are checked and converted, and how much memory this takes.

    python -m bench.upload
    python -m bench.upload --megabytes 200

The same pairs are written in several shapes. For each shape, two arms run in turns: the standard
library parses the lines (``json.loads``), and the service's reader converts the upload to canonical
JSONL and hashes both sides, as for an upload over HTTP. The program prints the ratio of both rates.
For Parquet the other arm is what a user would do without it: convert the file to JSON lines with
pyarrow and the standard library, and upload those. Then a separate process reads a large upload of
each shape, and the growth of its resident memory is printed, with the private memory of the child
that reads Parquet.

Exits with 1 if a ratio is below its target or the memory grows by more than MOST_MIB.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from app.datasets import arrow_child
from app.datasets.reading import DatasetReader
from app.datasets.spooling import SpooledFile
from app.storage.blobs import StreamDigest

MIB = 1 << 20
CHUNK_BYTES = 64 << 10
#: Minimum ratio of the reader's rate to that of json.loads, and of Parquet's to a conversion's.
LEAST_JSONL, LEAST_PARQUET = 0.5, 1.0
#: Parquet files are larger by this factor, because the child that reads them takes 0.1 s to start.
PARQUET_FACTOR = 4
MOST_MIB = 64
ROUNDS = 5

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=24, help="JSONL of each timed upload")
    parser.add_argument("--memory-megabytes", type=int, default=150, help="of the memory check")
    asked = parser.parse_args()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'shape':26} {'bytes a row':>11} {'json.loads':>11} {'reader':>9} {'ratio':>6}")
        for shape, write in SHAPES.items():
            if (ratio := time_jsonl(shape, write, asked.megabytes)) < LEAST_JSONL:
                failures.append(f"{shape}: {ratio:.2f} of json.loads")
        for shape in ("pairs, text", "pairs, messages"):
            if (ratio := time_parquet(folder, shape, asked.megabytes)) < LEAST_PARQUET:
                failures.append(f"{shape}: Parquet at {ratio:.2f} of a conversion to JSON lines")
        print(f"\n{'memory over idle':26} {'MiB':>6}")
        for shape in (*SHAPES, "parquet"):
            if (grown := memory(folder, shape, asked.memory_megabytes)) > MOST_MIB:
                failures.append(f"{shape}: {grown:.0f} MiB over idle")
    if failures:
        sys.exit("below target: " + "; ".join(failures))


# --- pairs in several shapes --------------------------------------------------------------------

_WORDS = [f"word{number}" * (1 + number % 2) for number in range(2000)]


def pairs(seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield texts with the lengths of UltraFeedback, and with quotes and line ends."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        said = " ".join(draw.choices(_WORDS, k=max(1, words)))
        return said if draw.random() < 0.5 else f'{said[:40]}\n\n"{said[40:]}"'

    while True:
        yield tuple(text(int(draw.lognormvariate(mean, 0.7))) for mean in (4, 5, 5))  # type: ignore[misc]


def _user(text: str) -> Row:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


SHAPES: dict[str, Callable[[str, str, str], Row]] = {
    "pairs, text": lambda p, c, r: {"prompt": p, "chosen": c, "rejected": r},
    "pairs, short text": lambda p, c, r: {"prompt": p[:30], "chosen": c[:60], "rejected": r[1:61]},
    "pairs, messages": lambda p, c, r: {
        "prompt": [_user(p)], "chosen": [_assistant(c)], "rejected": [_assistant(r)],
    },
    "conversations": lambda p, c, r: {
        "chosen": [_user(p), _assistant(c)], "rejected": [_user(p), _assistant(r)],
        "source": "bench",
    },
    "ultrafeedback_binarized": lambda p, c, r: {
        "prompt": p, "prompt_id": p[:9], "chosen": [_user(p), _assistant(c)],
        "rejected": [_user(p), _assistant(r)], "messages": [_user(p), _assistant(c)],
        "score_chosen": 8.0, "score_rejected": 4.0,
    },
    "orca": lambda p, c, r: {"system": "Be kind.", "question": p, "chosen": c, "rejected": r},
    "hh_rlhf": lambda p, c, r: {
        "chosen": f"\n\nHuman: {p}\n\nAssistant: {c}",
        "rejected": f"\n\nHuman: {p}\n\nAssistant: {r}",
    },
    "helpsteer3": lambda p, c, r: {
        "domain": "general", "context": [_user(p)], "response1": c, "response2": r,
        "overall_preference": -1,
    },
    "rewardbench2": lambda p, c, r: {
        "prompt": p, "chosen": [c], "rejected": [r, c[1:], r[1:]], "subset": "bench",
    },
}  # fmt: skip


def lines_of(write: Callable[[str, str, str], Row], size: int) -> list[bytes]:
    """Return JSON lines of about ``size`` bytes."""
    lines: list[bytes] = []
    left = size
    for prompt, chosen, rejected in pairs():
        lines.append(json.dumps(write(prompt, chosen, rejected)).encode())
        left -= len(lines[-1]) + 1
        if left <= 0:
            return lines
    raise AssertionError("unreachable")


# --- time ---------------------------------------------------------------------------------------


def time_jsonl(shape: str, write: Callable[[str, str, str], Row], megabytes: int) -> float:
    """Print and return the ratio of the reader's rate to that of json.loads."""
    lines = lines_of(write, megabytes * MIB)
    data = b"\n".join(lines)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    parsing, reading = [], []
    for _ in range(ROUNDS):
        parsing.append(timed(lambda: parse(lines)))
        reading.append(timed(lambda: read(iter(chunks))))
    rate, ours = (len(data) / MIB / min(times) for times in (parsing, reading))
    ratio = statistics.median(a / b for a, b in zip(parsing, reading, strict=True))
    print(f"{shape:26} {len(data) // len(lines):11} {rate:6.0f} MB/s {ours:4.0f} MB/s {ratio:6.2f}")
    return ratio


def time_parquet(folder: Path, shape: str, megabytes: int) -> float:
    """Print and return how much faster Parquet is than its conversion and the upload of that."""
    lines = lines_of(SHAPES[shape], PARQUET_FACTOR * megabytes * MIB)
    path, converted = folder / "pairs.parquet", folder / "pairs.jsonl"
    write_parquet(lines, path)
    conversion, jsonl, parquet = [], [], []
    for _ in range(ROUNDS):
        conversion.append(timed(lambda: convert_parquet(path, converted)))
        jsonl.append(timed(lambda: read_file(converted)))
        parquet.append(timed(lambda: read_parquet(path)))
    arms = list(zip(conversion, jsonl, parquet, strict=True))
    ratio = statistics.median((one + other) / ours for one, other, ours in arms)
    of_jsonl = statistics.median(other / ours for _, other, ours in arms)
    print(f"{shape + ', Parquet':26} {len(lines) / min(parquet):.0f} rows/s, {ratio:.2f} of a")
    print(f"{'':26} conversion and its upload, {of_jsonl:.2f} of the upload alone")
    return ratio


def parse(lines: list[bytes]) -> None:
    """Parse lines with the standard library, as the reference for the reader."""
    for line in lines:
        json.loads(line)


def read(chunks: Iterator[bytes]) -> None:
    """Check and convert an upload, hashed on both sides as the service does."""
    with StreamDigest() as sent, StreamDigest() as stored:

        def hashed() -> Iterator[bytes]:
            for chunk in chunks:
                sent.update(chunk)
                yield chunk

        for block in DatasetReader().read(hashed(), "jsonl"):
            stored.update(block)


def read_file(path: Path) -> None:
    """Read a file of JSON lines as ``read`` does."""
    with path.open("rb") as file:
        read(iter(lambda: file.read(CHUNK_BYTES), b""))


def convert_parquet(path: Path, target: Path) -> None:
    """Write a Parquet file as JSON lines, as users do."""
    import pyarrow.parquet

    with target.open("wb") as file:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                file.write(json.dumps(row).encode() + b"\n")


def read_parquet(path: Path) -> None:
    """Read a Parquet file as ``read`` does."""
    with StreamDigest() as sent, StreamDigest() as stored:

        def receive() -> None:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    sent.update(chunk)

        for block in DatasetReader().read_columnar(SpooledFile(path, receive)):
            stored.update(block)


def write_parquet(lines: list[bytes], path: Path) -> None:
    """Return the rows as a Parquet file with the usual compression."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([json.loads(line) for line in lines])
    pyarrow.parquet.write_table(table, path, compression="snappy", row_group_size=10_000)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds of a call without garbage collection."""
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    work()
    gc.enable()
    return time.perf_counter() - began


# --- memory -------------------------------------------------------------------------------------


def memory(folder: Path, shape: str, megabytes: int) -> float:
    """Print and return the growth in MiB of a process that reads a large upload."""
    path = folder / "large"
    if shape == "parquet":
        write_parquet(lines_of(SHAPES["pairs, messages"], megabytes * MIB), path)
    else:
        path.write_bytes(b"\n".join(lines_of(SHAPES[shape], megabytes * MIB)))
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_grow, args=(path, shape, queue))
    process.start()
    grown = queue.get(timeout=600)
    process.join()
    print(f"{shape:26} {grown:6.1f}")
    return grown


def _grow(path: Path, shape: str, queue: multiprocessing.Queue[float]) -> None:
    read(iter([json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}).encode()]))
    this = psutil.Process()
    idle = peak = this.memory_info().rss
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.01):
            children = sum(_private(process) for process in this.children(recursive=True))
            peak = max(peak, this.memory_info().rss + children)

    watcher = threading.Thread(target=look)
    watcher.start()
    if shape == "parquet":
        read_parquet(path)
    else:
        read_file(path)
    done.set()
    watcher.join()
    queue.put((peak - idle) / MIB)


def _private(process: psutil.Process) -> int:
    """Return the memory of a child without the pages of libraries, which the system can drop."""
    try:
        # Between fork and exec, a process has the memory of its parent.
        if arrow_child.__file__ in process.cmdline():
            return int(process.memory_full_info().uss)
    except psutil.Error:
        pass  # it has just ended
    return 0


if __name__ == "__main__":
    main()
