"""The service under attack: `plaudit serve` on SQLite, or on PostgreSQL and Redis."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from tests.services import PostgresServer, RedisServer, free_port

#: Memory limit of the service: without a bound, the service must end, not the machine.
MEMORY_BYTES = 3 << 30
TENANTS = ("acme", "other", "witness")


@dataclass(frozen=True)
class Target:
    """A running service and keys of two tenants."""

    port: int
    pid: int
    log: Path
    keys: dict[str, str]
    read_only_key: str
    #: None without a broker.
    redis_pid: int | None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, tenant: str = "acme", timeout: float = 30) -> httpx.Client:
        """An HTTP client with the tenant's admin key."""
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout)


@contextmanager
def serving(directory: Path, *, is_postgres: bool) -> Iterator[Target]:
    """Start the service with its files in ``directory``, and stop it at the end."""
    with ExitStack() as stack:
        redis_pid = None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
        url = f"sqlite:///{directory / 'plaudit.db'}"
        if is_postgres:
            postgres, redis = PostgresServer(directory / "pg"), RedisServer(directory / "redis")
            postgres.start()
            stack.callback(postgres.stop)
            redis.start()
            stack.callback(redis.stop)
            url = postgres.url
            environment["PLAUDIT_REDIS_URL"] = redis.url
            assert redis.process is not None
            redis_pid = redis.process.pid
        port = free_port()
        environment |= {
            "PLAUDIT_DATA_DIR": str(directory),
            "PLAUDIT_DATABASE_URL": url,
            "PLAUDIT_PORT": str(port),
            "PLAUDIT_RATE_PER_SECOND": "2000",
            "PLAUDIT_RATE_BURST": "4000",
            "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "0",
            "PLAUDIT_OPEN_ANSWERS": "600",
            "PLAUDIT_WEBHOOK_ALLOW_LOOPBACK": "true",
            "PLAUDIT_RECONCILE_SECONDS": "0.5",
        }
        engine = make_engine(url)
        migrate(engine)
        with transaction(engine) as session:
            keys = {
                tenant: api_keys.create(session, tenant, "attack", [Scope.ADMIN], None).token
                for tenant in TENANTS
            }
            read_only = api_keys.create(session, "acme", "read", [Scope.JOBS_READ], None).token
        engine.dispose()
        log = directory / "serve.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve", "--no-worker"],
                env=environment,
                stdout=output,
                stderr=output,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        _wait_until_ready(process, port, log)
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        yield Target(port, process.pid, log, keys, read_only, redis_pid)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the service did not answer within 120 s")
