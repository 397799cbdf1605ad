"""The service under test: databases, brokers, proxies, API and workers as processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, reader, transaction
from app.core.migrations import migrate
from app.models import Job
from bench.chaos.proxy import Proxy
from tests.services import PostgresServer, RedisServer, free_port
from tests.supervisor.workshop import TENANT, Workshop, trainers_below

ROOT = Path(__file__).parents[2]
LEASE_SECONDS, GRACE_SECONDS = 10.0, 1.0
SETTINGS: dict[str, Any] = {
    "intent_seconds": 0.2,
    "heartbeat_seconds": 0.5,
    "watchdog_seconds": 6,
    "self_fence_seconds": 7.5,
    "lease_seconds": LEASE_SECONDS,
    "sweep_grace_seconds": GRACE_SECONDS,
    "drain_seconds": 10,
    "reconcile_seconds": 1,
    "slow_poll_seconds": 5,
    "poll_seconds": 0.3,
    # These limits protect workers from jobs that crash them. Here the faults crash the workers.
    "max_failures": 10_000,
    "max_crashes": 10_000,
    "max_stalls": 10_000,
    "quota_queued": 10_000,
    "quota_running": 10_000,
}


@dataclass
class ServiceProcess:
    """A process of the service that is restarted whenever it has ended."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    frozen_until: float = 0.0  # in time.monotonic(); 0: not frozen

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def maintain(self) -> None:
        """Continue the process when its freeze is over, and restart it if it has ended."""
        if self.frozen_until and time.monotonic() > self.frozen_until:
            self.frozen_until = 0.0
            self.signal(signal.SIGCONT)
        if self.process is not None and self.process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """Kill the process and do not restart it."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Stack:
    """The whole service, with all its files below one directory."""

    def __init__(self, directory: Path, *, is_postgres: bool) -> None:
        self.directory, self.is_postgres = directory, is_postgres
        self.postgres: PostgresServer | None = None
        self.redis: RedisServer | None = None
        self.proxies: list[Proxy] = []
        self.processes: list[ServiceProcess] = []
        self._scheduled: list[tuple[float, Callable[[], object]]] = []

    def open(self) -> None:
        """Start the servers and create the database, but no process of the service."""
        self._url = f"sqlite:///{self.directory / 'chaos.db'}"
        extra: dict[str, Any] = {}
        if self.is_postgres:
            self.postgres = PostgresServer(self.directory / "postgres")
            self.postgres.start()
            self.redis = RedisServer(self.directory / "redis")
            self.redis.start()
            self._url = self.postgres.url
            self.proxies = [Proxy(self.postgres.port), Proxy(self.redis.port)]
            for proxy in self.proxies:
                proxy.start()
            extra["redis_url"] = f"redis://127.0.0.1:{self.proxies[1].port}/0"
        self.engine = make_engine(self._url)
        migrate(self.engine)
        self.workshop = Workshop(self.engine, self.directory / "shop", **{**SETTINGS, **extra})
        with transaction(self.engine) as session:
            key = api_keys.create(session, TENANT, "chaos", [Scope.ADMIN]).token
        self._port = free_port()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=10,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def start(self, workers: int) -> None:
        """Start API and workers; half of the workers reach the database through a proxy."""
        uvicorn = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
        self._add("api", [*uvicorn, "--port", str(self._port), "--log-level", "warning"], self._url)
        proxied = self._url
        if self.postgres:
            proxied = proxied.replace(str(self.postgres.port), str(self.proxies[0].port))
        for number in range(workers):
            name = f"worker-{number}"
            self._add(
                name,
                [sys.executable, "-m", "tests.supervisor.fake_worker"],
                proxied if number % 2 else self._url,
                data_dir=self.directory / name,
            )

    def _add(self, name: str, command: list[str], database_url: str, **settings: Any) -> None:
        environment = self.workshop.environment(database_url=SecretStr(database_url), **settings)
        log = self.directory / f"{name}.log"
        self.processes.append(ServiceProcess(name, command, environment, log))
        self.processes[-1].start()

    @property
    def api(self) -> ServiceProcess:
        return self.processes[0]

    @property
    def workers(self) -> list[ServiceProcess]:
        return self.processes[1:]

    def close(self) -> None:
        """End every process and server."""
        for process in self.processes:
            process.kill()
        for proxy in self.proxies:
            proxy.stop()
        self.engine.dispose()
        if self.redis and self.redis.process:
            self.redis.process.send_signal(signal.SIGCONT)
            self.redis.stop()
        if self.postgres:
            self.postgres.stop()
        orphans = trainers_below(self.directory)
        for orphan in orphans:
            orphan.kill()
        psutil.wait_procs(orphans, timeout=30)

    # -- while the service runs --------------------------------------------------------------

    def schedule(self, seconds: float, action: Callable[[], object]) -> None:
        """Let :meth:`maintain` call ``action`` after this number of seconds."""
        self._scheduled.append((time.monotonic() + seconds, action))

    def maintain(self) -> None:
        """Call the actions that are due, and restart processes that have ended."""
        now = time.monotonic()
        due = [action for at, action in self._scheduled if at <= now]
        self._scheduled = [(at, action) for at, action in self._scheduled if at > now]
        for action in due:
            action()
        for process in self.processes:
            process.maintain()

    def wait_until(self, what: str, is_true: Callable[[], bool], seconds: float) -> None:
        """Maintain the stack until a condition is true.

        Raises:
            TimeoutError: it is not true after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}; see {self.directory}")
            self.maintain()
            time.sleep(0.2)

    def is_api_up(self) -> bool:
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def is_database_up(self) -> bool:
        try:
            self.count_unfinished()
        except OperationalError:
            return False
        return True

    def job_status(self, job_id: str) -> str:
        return self.workshop.read_job(job_id).status

    def count_unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        with reader(self.engine).connect() as connection:
            statuses = connection.scalars(select(Job.status)).all()
        return sum(status in ("queued", "running", "paused") for status in statuses)

    def is_training(self, worker: ServiceProcess | None = None) -> bool:
        """Return whether a trainer runs, of this worker or of any."""
        return bool(trainers_below(self.directory / worker.name if worker else self.directory))
