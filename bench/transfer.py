"""How much memory the server takes to move files much larger than that.

    python -m bench.transfer --megabytes 2000
    python -m bench.transfer --database-url postgresql+psycopg://…

A client on this machine uploads so many megabytes of pairs, downloads them again, and downloads an
adapter of the same size, once in the middle of it all broken off and resumed. Every byte is checked
by its sha256; the server's resident memory is looked at twenty times a second. Exits with 1 when it
was more than MOST_MB.
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
from app.auth.key_ring import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.domain.progress import FileEntry, Packaged
from tests import services
from tests.api.world import World

MIB = 1 << 20
#: What the server may take, resident, however large the files are.
MOST_MB = 150
ROW = {"prompt": "What is it? ", "chosen": "good " * 80, "rejected": "bad " * 80}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--database-url", default=None, help="PostgreSQL; none: SQLite")
    asked = parser.parse_args()
    peaks: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        database(Path(name), asked.database_url) as url,
        served(Path(name), url) as (process, client, world),
    ):
        print(f"{url.partition(':')[0]}, {asked.megabytes} MB; idle {resident(process):.0f} MB")
        size = asked.megabytes * MIB
        sent = hashlib.sha256()
        with measured(process, peaks, "upload of pairs", size):
            answer = client.post(
                "/v1/datasets",
                content=rows(size, sent),
                headers={"Content-Type": "application/x-ndjson"},
            )
        assert answer.status_code == 201, answer.text
        dataset = answer.json()
        assert dataset["upload_sha256"] == sent.hexdigest()
        with measured(process, peaks, "download of pairs", dataset["bytes"]):
            got = download(client, f"/v1/datasets/{dataset['id']}/content", 0)
        assert got.hexdigest() == dataset["sha256"]

        adapter, wanted = publish(world, dataset["id"], size, Path(name))
        path = f"/v1/adapters/{adapter}/files/adapter_model.safetensors"
        with measured(process, peaks, "download of an adapter, broken off and resumed", size):
            got = download(client, path, 0, stop=size // 2)
            got = download(client, path, size // 2, got=got)
        assert got.hexdigest() == wanted
    if max(peaks) > MOST_MB:
        sys.exit(f"the server took {max(peaks):.0f} MB resident, and may take {MOST_MB} MB")


def rows(size: int, sent: hashlib._Hash) -> Iterator[bytes]:
    """About ``size`` bytes of pairs, no two the same."""
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
    got: hashlib._Hash | None = None,
) -> hashlib._Hash:
    """Hash what comes from byte ``start`` on; hang up at ``stop``."""
    got, taken = got or hashlib.sha256(), start
    headers = {"Range": f"bytes={start}-"} if start else {}
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == (206 if start else 200)
        for piece in answer.iter_bytes(MIB):
            if stop is not None and taken + len(piece) > stop:
                piece = piece[: stop - taken]
            got.update(piece)
            taken += len(piece)
            if taken == stop:
                break
    return got


def publish(world: World, dataset: str, size: int, folder: Path) -> tuple[str, str]:
    """An adapter of so many random bytes, as a worker stores it."""
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
    """A fresh, migrated database."""
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
    """The API alone, as a production host runs it, and a client with a key."""
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
        services.wait_until("the server", lambda: _answers(client), 60)
        yield psutil.Process(process.pid), client, World(client, engine, settings)
    finally:
        client.close()
        process.terminate()
        process.wait()
        engine.dispose()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def measured(process: psutil.Process, peaks: list[float], what: str, size: int) -> Iterator[None]:
    """Print speed and peak memory of what happens inside; the peak is added to ``peaks``."""
    peak, done = resident(process), threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, resident(process))

    watcher = threading.Thread(target=look)
    watcher.start()
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    peaks.append(peak)
    print(f"{what}: {size / MIB / seconds:.0f} MB/s, the server at most {peak:.0f} MB", flush=True)


def resident(process: psutil.Process) -> float:
    """Megabytes of the server and of the processes that it started."""
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / 1e6


if __name__ == "__main__":
    main()
