"""Real PostgreSQL and Redis for the tests: from environment variables, or private instances."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

REQUIRED = os.environ.get("PLAUDIT_TEST_REQUIRE_SERVICES") == "1"


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it if PLAUDIT_TEST_REQUIRE_SERVICES is set."""
    if REQUIRED:
        pytest.fail(f"{reason} (PLAUDIT_TEST_REQUIRE_SERVICES=1)")
    pytest.skip(reason)


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, is_true: Callable[[], bool], seconds: float = 30) -> None:
    """Poll a condition; fail if it is not true in time. ``what`` names it in the error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_true():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


class PostgresServer:
    """A private PostgreSQL server that tests may kill."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._bin = _postgres_bin()
        # initdb refuses to run as root.
        self._prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._prefix:
            directory.mkdir(parents=True, exist_ok=True)
            shutil.chown(directory, "postgres")
            for parent in directory.parents:
                if parent.owner() == getpass.getuser() and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(directory / "data"), "-A", "trust", "-U", "postgres", "-N")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c max_connections=200"
        options += f" -c unix_socket_directories={self._directory}"
        log = str(self._directory / "log")
        self._run(
            "pg_ctl", "-w", "-D", str(self._directory / "data"), "-o", options, "-l", log, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-w", "-m", mode, "-D", str(self._directory / "data"), "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._bin / program), *arguments]
        done = subprocess.run(
            command,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()}")


class RedisServer:
    """A private Redis server that tests may kill and freeze."""

    def __init__(self, directory: Path, password: str = "") -> None:
        self.port, self.password = free_port(), password
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
                "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction",
                "--dir", str(self._directory), "--requirepass", self.password,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until("Redis", self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def command(self, *words: str) -> None:
        """Run one command."""
        with redis.Redis.from_url(self.url) as client:
            client.execute_command(*words)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@contextmanager
def postgres_url(directory: Path) -> Iterator[str]:
    """Yield the URL in PLAUDIT_TEST_DATABASE_URL, or run a private server."""
    if url := os.environ.get("PLAUDIT_TEST_DATABASE_URL"):
        yield url
        return
    if not _has_postgres():
        skip_or_fail("needs the programs of PostgreSQL or PLAUDIT_TEST_DATABASE_URL")
    server = PostgresServer(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def redis_url(directory: Path) -> Iterator[str]:
    """Yield the URL in PLAUDIT_TEST_REDIS_URL, or run a private server."""
    if url := os.environ.get("PLAUDIT_TEST_REDIS_URL"):
        yield url
        return
    if shutil.which("redis-server") is None:
        skip_or_fail("needs redis-server or PLAUDIT_TEST_REDIS_URL")
    server = RedisServer(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def fresh_database(server_url: str, name: str) -> Iterator[str]:
    """Create a database on a server and drop it afterwards."""
    admin = server_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server_url.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _postgres_bin() -> Path:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))


def _has_postgres() -> bool:
    return shutil.which("initdb") is not None or any(
        Path("/usr/lib/postgresql").glob("*/bin/initdb")
    )
