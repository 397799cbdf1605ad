"""Measure the memory that the server needs to transfer files much larger than that.

    python -m bench.transfer --megabytes 2000
    python -m bench.transfer --database-url postgresql+psycopg://…

A client on this machine uploads pairs of the given size, downloads them, and downloads an adapter
of the same size, interrupted in the middle and resumed. The sha256 of every transfer is checked.
The resident memory of the server is measured twenty times per second. Exits with 1 if it exceeds
MAX_RESIDENT_MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil

from app.adapters import publishing
from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.domain.progress import FileEntry, Packaged
from tests import services
from tests.world import World

MIB = 1 << 20
#: Limit for the resident memory of the server, independent of the size of the files.
MAX_RESIDENT_MB = 150
ROW = {"prompt": "What is it? ", "chosen": "good " * 80, "rejected": "bad " * 80}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--database-url", default=None, help="PostgreSQL; default: SQLite")
    options = parser.parse_args()
    size = options.megabytes * MIB
    with (
        tempfile.TemporaryDirectory() as name,
        database(Path(name), options.database_url) as url,
        served(Path(name), url) as (process, client, world),
    ):
        meter = Meter(process)
        print(f"{url.partition(':')[0]}, {options.megabytes} MB; idle {meter.resident_mb():.0f} MB")
        dataset = transfer_pairs(meter, client, size)
        adapter, sha256 = publish(world, dataset, size, Path(name))
        path = f"/v1/adapters/{adapter}/files/adapter_model.safetensors"
        with meter.measured("download of an adapter, interrupted and resumed", size):
            digest = download(client, path, 0, stop=size // 2)
            digest = download(client, path, size // 2, digest=digest)
        assert digest.hexdigest() == sha256
    if meter.peak_mb > MAX_RESIDENT_MB:
        sys.exit(
            f"the server used {meter.peak_mb:.0f} MB of resident memory; the limit is "
            f"{MAX_RESIDENT_MB} MB"
        )


def transfer_pairs(meter: Meter, client: httpx.Client, size: int) -> str:
    """Upload ``size`` bytes of pairs, download them, and return the dataset's id."""
    sent = hashlib.sha256()
    with meter.measured("upload of pairs", size):
        response = client.post(
            "/v1/datasets",
            content=rows(size, sent),
            headers={"Content-Type": "application/x-ndjson"},
        )
    assert response.status_code == 201, response.text
    dataset = response.json()
    assert dataset["upload_sha256"] == sent.hexdigest()
    with meter.measured("download of pairs", dataset["bytes"]):
        digest = download(client, f"/v1/datasets/{dataset['id']}/content", 0)
    assert digest.hexdigest() == dataset["sha256"]
    return str(dataset["id"])


def rows(size: int, sent: hashlib._Hash) -> Iterator[bytes]:
    """Yield about ``size`` bytes of distinct pairs and add them to the digest ``sent``."""
    number, left = 0, size
    while left > 0:
        lines = []
        for _ in range(1000):
            number += 1
            lines.append(json.dumps(ROW | {"prompt": f"What is {number}? "}))
        piece = ("\n".join(lines) + "\n").encode()
        sent.update(piece)
        left -= len(piece)
        yield piece


def download(
    client: httpx.Client,
    path: str,
    start: int,
    *,
    stop: int | None = None,
    digest: hashlib._Hash | None = None,
) -> hashlib._Hash:
    """Add the bytes from ``start`` to a digest; close the connection at ``stop``."""
    digest, position = digest or hashlib.sha256(), start
    headers = {"Range": f"bytes={start}-"} if start else {}
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == (206 if start else 200)
        for piece in response.iter_bytes(MIB):
            if stop is not None and position + len(piece) > stop:
                piece = piece[: stop - position]
            digest.update(piece)
            position += len(piece)
            if position == stop:
                break
    return digest


def publish(world: World, dataset: str, size: int, folder: Path) -> tuple[str, str]:
    """Store an adapter of ``size`` random bytes as a worker does; return its id and sha256."""
    file = folder / "large.bin"
    digest = hashlib.sha256()
    with file.open("wb") as target:
        for _ in range(size // MIB):
            piece = os.urandom(MIB)
            digest.update(piece)
            target.write(piece)
    entry = FileEntry(name="adapter_model.safetensors", size=size, sha256=digest.hexdigest())
    file = file.rename(folder / entry.name)
    world.know_base_model()
    world.submit(train_dataset=dataset)
    packaged = Packaged(directory=folder.name, files=[entry], certificate={"is_verified": True})
    adapter = publishing.publish(world.engine, world.settings, world.claim(), folder, packaged)
    file.unlink()
    return adapter, entry.sha256


@contextmanager
def database(folder: Path, url: str | None) -> Iterator[str]:
    """Yield the URL of a new, migrated database."""
    with ExitStack() as stack:
        if url is None:
            url = f"sqlite:///{folder / 'transfer.db'}"
        else:
            url = stack.enter_context(services.fresh_database(url, f"transfer_{os.getpid()}"))
        engine = make_engine(url)
        migrate(engine)
        engine.dispose()
        yield url


@contextmanager
def served(folder: Path, url: str) -> Iterator[tuple[psutil.Process, httpx.Client, World]]:
    """Run the API as a production host does; yield its process and a client with a key."""
    port, engine = services.free_port(), make_engine(url)
    with transaction(engine) as session:
        token = api_keys.create(session, "bench", "bench", [Scope.ADMIN], None).token
    settings = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port),
         "--log-level", "error", "--no-access-log"],
        env=os.environ | {"PLAUDIT_DATABASE_URL": url, "PLAUDIT_DATA_DIR": str(folder)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=None,
    )
    try:
        services.wait_until("the server", lambda: _is_up(client), 60)
        yield psutil.Process(process.pid), client, World(client, engine, settings)
    finally:
        client.close()
        process.terminate()
        process.wait()
        engine.dispose()


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False


class Meter:
    """Measures speed and resident memory of a server process and its children."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.peak_mb = 0.0

    @contextmanager
    def measured(self, what: str, size: int) -> Iterator[None]:
        """Print the speed and the peak memory of a transfer of ``size`` bytes."""
        peak, done = self.resident_mb(), threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, self.resident_mb())

        sampler = threading.Thread(target=sample)
        sampler.start()
        began = time.perf_counter()
        try:
            yield
        finally:
            done.set()
            sampler.join()
        seconds = time.perf_counter() - began
        self.peak_mb = max(self.peak_mb, peak)
        print(f"{what}: {size / MIB / seconds:.0f} MB/s, server peak {peak:.0f} MB", flush=True)

    def resident_mb(self) -> float:
        family = [self._process, *self._process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) / 1e6


if __name__ == "__main__":
    main()
