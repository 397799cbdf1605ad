"""Upload many short pairs to a real service and train on them: times and memory of each part.

    python -m bench.large --pairs 1000000

`plaudit serve` runs with its own worker and an embedded database. The pairs are uploaded in one
request, then again as ten numbered parts, and a job with a tiny decoder trains two steps on them.
The resident memory of the API, and the memory of the worker with its trainer and encoders (shared
pages counted once), are sampled twice per second.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from plaudit import Plaudit
from tests.cli.conftest import serving
from tests.model_factories.pairs import BAD, GOOD, TOPICS
from tests.model_factories.tiny_models import make_decoder

MIB = 1 << 20
PARTS = 10
POLL_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        catalogue = folder / "models.yaml"
        catalogue.write_text(f"tiny:\n  source: local:{make_decoder(folder / 'model')}\n")
        shards = write_shards(folder / "shards", asked.pairs)
        whole = join(folder / "pairs.jsonl", shards)
        print(f"{asked.pairs} pairs, {whole.stat().st_size / MIB:.0f} MiB of JSONL", flush=True)
        (folder / "data").mkdir()
        with serving(folder / "data", base_models=catalogue) as (process, url):
            key = (folder / "data" / "api-key").read_text().strip()
            meter = Meter(process.pid)
            with Plaudit(url, key) as client:
                measure(client, meter, whole, shards)


def measure(client: Plaudit, meter: Meter, whole: Path, shards: list[Path]) -> None:
    """Upload the pairs in both ways and train on them."""
    meter.print_row("idle", 0.0, meter.look())
    with meter.measured("upload, one request"):
        dataset = client.datasets.upload(whole, name="whole")
    with meter.measured(f"upload, {PARTS} parts"):
        in_parts = client.datasets.upload(shards, name="parts")
    assert in_parts.sha256 == dataset.sha256
    began, since, phase = time.monotonic(), time.monotonic(), "waiting"
    peaks: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    training = {"max_steps": 2, "max_length": 128}
    job = client.jobs.create(base_model="tiny", train_dataset=dataset.id, training=training)
    while True:
        now = client.jobs.get(job.id)
        peaks[phase] = both_highest(peaks[phase], meter.look())
        if (found := now.phase or phase) != phase:
            meter.print_row(f"job, {phase}", time.monotonic() - since, peaks[phase])
            since, phase = time.monotonic(), found
        if now.progress.step:
            print(f"first step {time.monotonic() - began:.0f} s after the submission", flush=True)
            break
        if now.failure:
            raise RuntimeError(now.failure)
        time.sleep(POLL_SECONDS)
    client.jobs.cancel(job.id)


def write_shards(folder: Path, count: int) -> list[Path]:
    """Write files of distinct short pairs in the words of the tiny tokenizer."""
    folder.mkdir()
    shards = []
    for part in range(PARTS):
        path = folder / f"pairs-{part}.jsonl"
        with path.open("w") as file:
            file.writelines(pair(number) for number in range(part, count, PARTS))
        shards.append(path)
    return shards


def pair(number: int) -> str:
    """Return a line: the digits of its number in the words of the tokenizer."""
    words = [*TOPICS, *GOOD, *BAD]
    said = []
    while number:
        number, digit = divmod(number, len(words))
        said.append(words[digit])
    about = " ".join(said)
    return (
        f'{{"prompt":"please tell me about {about} ?","chosen":"a kind and clear answer .",'
        f'"rejected":"a rude and vague answer ."}}\n'
    )


def join(path: Path, shards: list[Path]) -> Path:
    """Join all shards into one file."""
    with path.open("wb") as file:
        for shard in shards:
            file.write(shard.read_bytes())
    return path


def both_highest(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), max(one[1], other[1])


class Meter:
    """Memory of the API process and of the processes below it."""

    def __init__(self, pid: int) -> None:
        self._api = psutil.Process(pid)
        print(f"{'':28} {'seconds':>8} {'API MiB':>8} {'worker MiB':>10}", flush=True)

    def look(self) -> tuple[float, float]:
        """Return the MiB of the API, and of the worker with all of its processes."""
        below = sum(_proportional(child) for child in self._api.children(recursive=True))
        return self._api.memory_info().rss / MIB, below / MIB

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Print the time and the highest memory of a block."""
        peak, done = self.look(), threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.wait(POLL_SECONDS):
                peak = both_highest(peak, self.look())

        sampler = threading.Thread(target=sample)
        sampler.start()
        began = time.monotonic()
        try:
            yield
        finally:
            done.set()
            sampler.join()
        self.print_row(what, time.monotonic() - began, peak)

    @staticmethod
    def print_row(what: str, seconds: float, peak: tuple[float, float]) -> None:
        print(f"{what:28} {seconds:8.1f} {peak[0]:8.0f} {peak[1]:10.0f}", flush=True)


def _proportional(process: psutil.Process) -> int:
    """Return the bytes of a process; each sharer counts its part of shared pages."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended, or belongs to another user
        return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
