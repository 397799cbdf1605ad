"""The service as separate processes: embedded on SQLite, and as docker-compose.yml runs it."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.services import free_port, wait_until

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE_SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

Environment = Mapping[str, str]


@dataclass(frozen=True)
class RunningService:
    """A service that accepts requests."""

    client: httpx.Client  # sends the key
    key: str


@contextmanager
def embedded_service(
    environment: Environment, directory: Path, options: Sequence[str] = ()
) -> Iterator[RunningService]:
    """Run `plaudit serve` on SQLite with the key that it creates at its first start."""
    data = directory / "data"
    own = {**environment, "PLAUDIT_DATA_DIR": str(data), "PLAUDIT_PORT": str(free_port())}
    with running(["serve", *options], own, directory):
        key_file = data / "api-key"
        wait_until("the first key", key_file.is_file, seconds=120)
        with _client(own, key_file.read_text().strip()) as service:
            yield service


@contextmanager
def production_service(environment: Environment, directory: Path) -> Iterator[RunningService]:
    """Run the commands of docker-compose.yml, each with a data directory of its own.

    ``environment`` names database and broker. The queue is new, so that no other worker of the
    same broker takes the jobs.
    """
    shared = {
        **environment,
        "PLAUDIT_PORT": str(free_port()),
        "PLAUDIT_QUEUE": f"test.{secrets.token_hex(4)}",
    }

    def own(name: str) -> Environment:
        return {**shared, "PLAUDIT_DATA_DIR": str(directory / name)}

    run_cli(COMPOSE_SERVICES["migrate"]["command"], own("migrate"))
    key = run_cli(["keys", "create"], own("api")).strip()
    with ExitStack() as stack:
        for name in ("api", "worker"):
            stack.enter_context(running(COMPOSE_SERVICES[name]["command"], own(name), directory))
        yield stack.enter_context(_client(shared, key))


@contextmanager
def running(command: list[str], environment: Environment, directory: Path) -> Iterator[None]:
    """Run a `plaudit` command, log to <command>.log, and end it with SIGTERM as a container is."""
    log = directory / f"{command[0]}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *command],
            env=dict(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert status in (0, -15), log.read_text()[-3000:]


def run_cli(command: list[str], environment: Environment) -> str:
    """Run a `plaudit` command to its successful end and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *command],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def upload(client: httpx.Client, pairs: list[dict[str, Any]]) -> str:
    """Upload pairs and return the id of the new dataset."""
    lines = [json.dumps({k: v for k, v in pair.items() if k != "line"}) for pair in pairs]
    response = client.post(
        "/v1/datasets",
        content="\n".join(lines).encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def download(client: httpx.Client, adapter: dict[str, Any], directory: Path) -> Path:
    """Extract an adapter's archive into ``directory`` and check the sha256 of archive and files."""
    data = client.get(adapter["archive"]["url"]).content
    assert hashlib.sha256(data).hexdigest() == adapter["archive"]["sha256"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(directory, filter="data")
    found = {
        file["name"]: hashlib.sha256((directory / file["name"]).read_bytes()).hexdigest()
        for file in adapter["files"]
    }
    assert found == {file["name"]: file["sha256"] for file in adapter["files"]}
    return directory


@contextmanager
def _client(environment: Environment, key: str) -> Iterator[RunningService]:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{environment['PLAUDIT_PORT']}",
        headers={"Authorization": f"Bearer {key}"},
        timeout=180,
    ) as client:
        wait_until("the API", lambda: _is_ready(client), seconds=120)
        yield RunningService(client, key)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False
