"""Measure the overhead of the HTTP layer, and whether it stays constant with many jobs.

Every figure is a ratio of two things that are measured alternately in one run on one machine, as
the median of several rounds. The server is one uvicorn process; the client is bench/http_load.py.

    python -m bench.api --jobs 1000000 --database-url postgresql+psycopg://localhost/bench

The databases are created for the run: SQLite files, or new databases on the server of the URL.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.core.logging import configure_logging
from app.job_queue import worker_api
from bench.api_service import Subject, databases
from bench.http_load import Connection, request, throughput

FEW_JOBS = 1000
UNLIMITED = {
    "PLAUDIT_RATE_PER_SECOND": "1e9",
    "PLAUDIT_RATE_BURST": "1000000000",
    "PLAUDIT_QUOTA_QUEUED": "1000000000",
    "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "0",
}


def main() -> None:
    options = parse_options()
    os.environ |= UNLIMITED
    configure_logging(open(os.devnull, "w"))  # noqa: SIM115
    with tempfile.TemporaryDirectory() as name, databases(Path(name), options.database_url) as urls:
        folder = Path(name)
        few = Subject(folder / "few", urls[0], FEW_JOBS, options.megabytes)
        many = Subject(folder / "many", urls[1], options.jobs, 1)
        with few.running(), many.running():
            asyncio.run(compare(options, few, many))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs in the large database")
    parser.add_argument("--seconds", type=float, default=3, help="duration of each throughput run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="calls per latency and round")
    parser.add_argument("--submits", type=int, default=200)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the adapter")
    parser.add_argument("--database-url", default=None, help="PostgreSQL; default: SQLite")
    return parser.parse_args()


async def compare(options: argparse.Namespace, few: Subject, many: Subject) -> None:
    """Measure every ratio and print it."""
    server = few.settings.database.partition(":")[0].partition("+")[0]
    print(f"{server}, {options.jobs} jobs against {FEW_JOBS}, {options.rounds} rounds", flush=True)
    await compare_throughput(options, few)
    for what, path in (("get", None), ("list", "/v1/jobs?limit=50")):
        small, large = (
            lambda subject=subject, path=path: latency(
                subject.port, request(path or subject.job_path, subject.token), options.calls
            )
            for subject in (few, many)
        )
        times = await alternate(options.rounds, small, large)
        report(f"{what}: p50 with many jobs / with {FEW_JOBS}", times[1], times[0], "ms")
    times = await alternate(options.rounds, lambda: claim_latency(few), lambda: claim_latency(many))
    report(f"claim: p50 with many jobs / with {FEW_JOBS}", times[1], times[0], "ms")
    await compare_submits(options, few)
    rates = await alternate(
        options.rounds,
        lambda: download(few.port, "/file", few.token, options.megabytes),
        lambda: download(few.port, few.file_path, few.token, options.megabytes),
    )
    report("adapter download / FileResponse", rates[1], rates[0], "MB/s")


async def compare_throughput(options: argparse.Namespace, subject: Subject) -> None:
    """Compare status polls and jobs by id with an empty endpoint of the same server."""
    poll = request(subject.job_path, subject.token, {"If-None-Match": await subject.etag()})
    arms = {"empty": request("/empty"), "poll": poll}
    arms["job"] = request(subject.job_path, subject.token)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, raw in arms.items():
            rates[name].append(await throughput(subject.port, raw, options.seconds))
    for name, what in (("poll", "status poll with ETag"), ("job", "job by id")):
        report(f"{what} / empty endpoint", rates[name], rates["empty"], "requests/s")


async def compare_submits(options: argparse.Namespace, subject: Subject) -> None:
    """Compare the p99 of submits while many clients poll with the p50 on an idle service."""
    raw = request("/v1/jobs", subject.token, body=subject.spec)
    poll = request(subject.job_path, subject.token, {"If-None-Match": await subject.etag()})
    idle = await latencies(subject.port, raw, options.submits)
    pollers = [
        asyncio.create_task(poll_every_second(subject.port, poll, number / options.pollers))
        for number in range(options.pollers)
    ]
    await asyncio.sleep(2)
    busy = await latencies(subject.port, raw, options.submits)
    for poller in pollers:
        poller.cancel()
    report(
        f"submit: p99 under {options.pollers} pollers / idle p50",
        [quantile(busy, 0.99)], [quantile(idle, 0.5)], "ms",
    )  # fmt: skip


async def poll_every_second(port: int, raw: bytes, offset: float) -> None:
    connection = await Connection.open(port)
    await asyncio.sleep(offset)
    while True:
        assert await connection.send(raw) == 304
        await asyncio.sleep(1)


async def alternate(rounds: int, *arms: Callable[[], Awaitable[float]]) -> tuple[list[float], ...]:
    """Return each arm's figures, measured in turn; the first round is a warm-up and dropped."""
    figures: tuple[list[float], ...] = tuple([] for _ in arms)
    for number in range(rounds + 1):
        for kept, arm in zip(figures, arms, strict=True):
            figure = await arm()
            if number:
                kept.append(figure)
    return figures


async def latencies(port: int, raw: bytes, count: int) -> list[float]:
    """Return the milliseconds of each of ``count`` consecutive calls on one connection."""
    connection = await Connection.open(port)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        assert await connection.send(raw) in (200, 201)
        times.append((time.perf_counter() - start) * 1000)
    connection.close()
    return times


async def latency(port: int, raw: bytes, count: int) -> float:
    return quantile(await latencies(port, raw, count), 0.5)


async def claim_latency(subject: Subject, count: int = 20) -> float:
    """Return the p50 of ``count`` claims in milliseconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        claimed = worker_api.claim(
            subject.engine, subject.settings, subject.settings.queue, "bench/0:lease", "bench"
        )
        times.append((time.perf_counter() - start) * 1000)
        assert claimed is not None
        worker_api.release(claimed.context, "measured")
    return quantile(times, 0.5)


async def download(port: int, path: str, token: str, megabytes: int) -> float:
    """Return the MB/s of one download."""
    connection = await Connection.open(port)
    start = time.perf_counter()
    assert await connection.send(request(path, token)) == 200
    connection.close()
    return megabytes / (time.perf_counter() - start)


def report(what: str, ours: list[float], base: list[float], unit: str) -> None:
    """Print the ratio of two medians."""
    a, b = statistics.median(ours), statistics.median(base)
    print(f"{what}: {a / b:.2f} ({a:.3g} against {b:.3g} {unit})", flush=True)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(math.floor(len(values) * share), len(values) - 1)]


if __name__ == "__main__":
    main()
