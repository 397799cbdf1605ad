"""What the service costs on top of its framework, and whether it stays so with many jobs.

Every figure is a ratio of two things measured in turns, in one run, on one machine: so many rounds,
the median of each. The server is one uvicorn process; the client is a small one of asyncio.

    python -m bench.api --jobs 1000000 --database-url postgresql+psycopg://localhost/bench

Databases are made anew: an empty SQLite file, or a fresh database beside the one that is named.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi.responses import FileResponse
from sqlalchemy import Engine, insert, select, text
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.key_ring import Scope
from app.core.database import make_engine, new_id, transaction
from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings
from app.job_queue import worker_api
from app.main import create_app
from app.models import Job
from bench.http_load import Connection, request, throughput
from tests import services
from tests.api.world import World

FEW = 1000
QUEUED = 400
UNBOUND = {
    "PLAUDIT_RATE_PER_SECOND": "1e9",
    "PLAUDIT_RATE_BURST": "1000000000",
    "PLAUDIT_QUOTA_QUEUED": "1000000000",
    "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="of the large database")
    parser.add_argument("--seconds", type=float, default=3, help="of each throughput")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="of each latency, a round")
    parser.add_argument("--submits", type=int, default=200)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=64, help="of the adapter")
    parser.add_argument("--database-url", default=None, help="PostgreSQL; none: SQLite")
    parser.add_argument("--serve", type=int, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        serve(asked.serve)
        return
    os.environ |= UNBOUND
    configure_logging(open(os.devnull, "w"))  # noqa: SIM115
    with tempfile.TemporaryDirectory() as name, databases(Path(name), asked.database_url) as urls:
        folder = Path(name)
        few = Place(folder / "few", urls[0], FEW, asked.megabytes)
        many = Place(folder / "many", urls[1], asked.jobs, 1)
        with few.served() as small, many.served() as large:
            asyncio.run(compare(asked, few, small, many, large))


async def compare(
    asked: argparse.Namespace, few: Place, small: int, many: Place, large: int
) -> None:
    """Measure everything and print it."""
    server = few.settings.database.partition(":")[0].partition("+")[0]
    print(f"{server}, {asked.jobs} jobs against {FEW}, {asked.rounds} rounds", flush=True)
    poll = request(few.job_path, few.token, {"If-None-Match": await few.etag(small)})
    arms = {"empty": request("/empty"), "poll": poll, "job": request(few.job_path, few.token)}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(asked.rounds):
        for name, raw in arms.items():
            rates[name].append(await throughput(small, raw, asked.seconds))
    for name, what in (("poll", "status poll with ETag"), ("job", "job by id")):
        told(f"{what} / empty endpoint", rates[name], rates["empty"], "requests/s")
    for what, path in (("get", None), ("list", "/v1/jobs?limit=50")):
        times = await in_turns(
            asked.rounds,
            lambda path=path: latency(small, request(path or few.job_path, few.token), asked.calls),
            lambda path=path: latency(
                large, request(path or many.job_path, many.token), asked.calls
            ),
        )
        told(f"{what}: p50 with many jobs / with {FEW}", times[1], times[0], "ms")
    times = await in_turns(asked.rounds, few.claims, many.claims)
    told(f"claim: p50 with many jobs / with {FEW}", times[1], times[0], "ms")
    await submits(asked, few, small)
    rates_ = await in_turns(
        asked.rounds,
        lambda: download(small, "/file", few.token, asked.megabytes),
        lambda: download(small, few.file_path, few.token, asked.megabytes),
    )
    told("adapter download / FileResponse", rates_[1], rates_[0], "MB/s")


async def submits(asked: argparse.Namespace, place: Place, port: int) -> None:
    """p99 while many poll, against the p50 of an idle service."""
    raw = request("/v1/jobs", place.token, body=place.spec)
    poll = request(place.job_path, place.token, {"If-None-Match": await place.etag(port)})
    idle = await calls(port, raw, asked.submits)
    pollers = [
        asyncio.create_task(polling(port, poll, number / asked.pollers))
        for number in range(asked.pollers)
    ]
    await asyncio.sleep(2)
    busy = await calls(port, raw, asked.submits)
    for poller in pollers:
        poller.cancel()
    told(
        f"submit: p99 under {asked.pollers} pollers / idle p50",
        [quantile(busy, 0.99)], [quantile(idle, 0.5)], "ms",
    )  # fmt: skip


async def polling(port: int, raw: bytes, offset: float) -> None:
    connection = await Connection.open(port)
    await asyncio.sleep(offset)
    while True:
        assert await connection.ask(raw) == 304
        await asyncio.sleep(1)


async def in_turns(rounds: int, *arms: Callable[[], Awaitable[float]]) -> tuple[list[float], ...]:
    """Each arm's figure of every round; one warm-up round is thrown away."""
    found: tuple[list[float], ...] = tuple([] for _ in arms)
    for number in range(rounds + 1):
        for figures, arm in zip(found, arms, strict=True):
            figure = await arm()
            if number:
                figures.append(figure)
    return found


async def calls(port: int, raw: bytes, count: int) -> list[float]:
    """Milliseconds of each call, one after the other on one connection."""
    connection = await Connection.open(port)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        assert await connection.ask(raw) in (200, 201)
        times.append((time.perf_counter() - start) * 1000)
    connection.close()
    return times


async def latency(port: int, raw: bytes, count: int) -> float:
    return quantile(await calls(port, raw, count), 0.5)


async def download(port: int, path: str, token: str, megabytes: int) -> float:
    connection = await Connection.open(port)
    start = time.perf_counter()
    assert await connection.ask(request(path, token)) == 200
    connection.close()
    return megabytes / (time.perf_counter() - start)


def told(what: str, ours: list[float], base: list[float], unit: str) -> None:
    a, b = statistics.median(ours), statistics.median(base)
    print(f"{what}: {a / b:.2f} ({a:.3g} against {b:.3g} {unit})", flush=True)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(math.floor(len(values) * share), len(values) - 1)]


class Place:
    """A service's database with so many jobs of one tenant, one of them with an adapter."""

    def __init__(self, folder: Path, url: str, jobs: int, megabytes: int) -> None:
        folder.mkdir()
        self.settings = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
        self.engine = make_engine(url)
        migrate(self.engine)
        with transaction(self.engine) as session:
            self.token = api_keys.create(session, "bench", "bench", [Scope.ADMIN], None).token
        self.file = folder / "adapter.bin"
        self.file.write_bytes(os.urandom(1 << 20) * megabytes)
        with TestClient(create_app(self.settings)) as client:
            client.headers["Authorization"] = f"Bearer {self.token}"
            world = World(client, self.engine, self.settings)
            world.know_base_model()
            self.spec = world.spec()
            job = world.submit(**self.spec)
            files = {"adapter_model.safetensors": self.file.read_bytes()}
            adapter = world.publish(world.claim(), files)
            queued = world.submit(**self.spec)
        self.job_path = f"/v1/jobs/{job['id']}"
        self.file_path = f"/v1/adapters/{adapter}/files/adapter_model.safetensors"
        fill(self.engine, job["id"], jobs)
        fill(self.engine, queued["id"], QUEUED)
        if self.engine.dialect.name == "postgresql":
            # What autovacuum would do a little later.
            with self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("ANALYZE"))

    @contextmanager
    def served(self) -> Iterator[int]:
        """The port of a server."""
        port = services.free_port()
        environment = {
            **os.environ,
            "PLAUDIT_DATABASE_URL": self.settings.database,
            "PLAUDIT_DATA_DIR": str(self.settings.data_dir),
            "BENCH_FILE": str(self.file),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.api", "--serve", str(port)], env=environment
        )
        try:
            services.wait_until("the server", lambda: answers(port), 60)
            yield port
        finally:
            process.terminate()
            process.wait()

    async def etag(self, port: int) -> str:
        """That of the finished job."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            headers = {"Authorization": f"Bearer {self.token}"}
            answer = await client.get(self.job_path, headers=headers)
        return str(answer.headers["etag"])

    async def claims(self, count: int = 20) -> float:
        """p50 of so many claims, in milliseconds."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            claimed = worker_api.claim(
                self.engine, self.settings, self.settings.queue, "bench/0:lease", "bench"
            )
            times.append((time.perf_counter() - start) * 1000)
            assert claimed is not None
            worker_api.release(claimed.context, "measured")
        return quantile(times, 0.5)


def fill(engine: Engine, job_id: str, count: int) -> None:
    """More jobs like this one."""
    with engine.connect() as connection:
        like: dict[str, Any] = dict(
            connection.execute(select(Job.__table__).where(Job.id == job_id)).mappings().one()
        )
    like |= {"adapter_id": None}
    for start in range(0, count, 10_000):
        rows = [like | {"id": new_id("job")} for _ in range(start, min(start + 10_000, count))]
        with engine.begin() as connection:
            connection.execute(insert(Job.__table__), rows)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def serve(port: int) -> None:
    """The service and beside it what it is measured against."""
    configure_logging(open(os.devnull, "w"))  # noqa: SIM115
    app = create_app()

    @app.get("/empty")
    async def empty() -> dict[str, str]:
        return {}

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(os.environ["BENCH_FILE"])

    uvicorn.run(app, port=port, log_level="error", access_log=False)


@contextmanager
def databases(folder: Path, url: str | None) -> Iterator[list[str]]:
    if url is None:
        yield [f"sqlite:///{folder / name}.db" for name in ("few", "many")]
        return
    stamp = f"bench_{os.getpid()}"
    with (
        services.fresh_database(url, f"{stamp}_few") as few,
        services.fresh_database(url, f"{stamp}_many") as many,
    ):
        yield [few, many]


if __name__ == "__main__":
    main()
