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
from app.auth.key_ring import Scope
from app.core.database import make_engine, reader, transaction
from app.core.migrations import migrate
from app.models import Job
from bench.chaos.proxy import Proxy
from tests.services import PostgresServer, RedisServer, free_port
from tests.supervisor.workshop import TENANT, Workshop, trainers_below

ROOT = Path(__file__).parents[2]
LEASE, GRACE = 10.0, 1.0
TIMINGS: dict[str, Any] = {
    "intent_seconds": 0.2,
    "heartbeat_seconds": 0.5,
    "watchdog_seconds": 6,
    "self_fence_seconds": 7.5,
    "lease_seconds": LEASE,
    "sweep_grace_seconds": GRACE,
    "drain_seconds": 10,
    "reconcile_seconds": 1,
    "slow_poll_seconds": 5,
    "poll_seconds": 0.3,
    # The caps are for jobs that break workers; here it is the other way round.
    "max_failures": 10_000,
    "max_crashes": 10_000,
    "max_stalls": 10_000,
    "quota_queued": 10_000,
    "quota_running": 10_000,
}


@dataclass
class Member:
    """A process of the service that is started again whenever it is gone."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    frozen_until: float = 0.0

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def tend(self) -> None:
        """Thaw it when its time has come; start it again when it is gone."""
        if self.frozen_until and time.monotonic() > self.frozen_until:
            self.frozen_until = 0.0
            self.signal(signal.SIGCONT)
        if self.process is not None and self.process.poll() is not None:
            self.start()

    def end(self) -> None:
        """Kill it for good."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Stack:
    """The whole service, below one directory."""

    def __init__(self, directory: Path, *, is_postgres: bool) -> None:
        self.directory, self.is_postgres = directory, is_postgres
        self.postgres: PostgresServer | None = None
        self.redis: RedisServer | None = None
        self.proxies: list[Proxy] = []
        self.members: list[Member] = []
        self._later: list[tuple[float, Callable[[], object]]] = []

    def open(self) -> None:
        """Databases and what is in them; no process of ours yet."""
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
        self.shop = Workshop(self.engine, self.directory / "shop", **{**TIMINGS, **extra})
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
        """API and workers; half of these reach the databases through proxies that misbehave."""
        uvicorn = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
        self._add("api", [*uvicorn, "--port", str(self._port), "--log-level", "warning"], self._url)
        through = self._url
        if self.postgres:
            through = through.replace(str(self.postgres.port), str(self.proxies[0].port))
        for number in range(workers):
            name = f"worker-{number}"
            self._add(
                name,
                [sys.executable, "-m", "tests.supervisor.fake_worker"],
                through if number % 2 else self._url,
                data_dir=self.directory / name,
            )

    def _add(self, name: str, command: list[str], database_url: str, **settings: Any) -> None:
        environment = self.shop.environment(database_url=SecretStr(database_url), **settings)
        self.members.append(Member(name, command, environment, self.directory / f"{name}.log"))
        self.members[-1].start()

    @property
    def workers(self) -> list[Member]:
        """All but the API."""
        return self.members[1:]

    def close(self) -> None:
        """End everything."""
        for member in self.members:
            member.end()
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

    # -- what goes on in it ------------------------------------------------------------------

    def soon(self, seconds: float, act: Callable[[], object]) -> None:
        """Do it then, in :meth:`tend`."""
        self._later.append((time.monotonic() + seconds, act))

    def tend(self) -> None:
        """Do what is due, and start again what is gone."""
        now = time.monotonic()
        due = [act for at, act in self._later if at <= now]
        self._later = [(at, act) for at, act in self._later if at > now]
        for act in due:
            act()
        for member in self.members:
            member.tend()

    def until(self, what: str, is_true: Callable[[], bool], seconds: float) -> None:
        """Tend the stack until it is true; a TimeoutError after so many seconds."""
        deadline = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}; see {self.directory}")
            self.tend()
            time.sleep(0.2)

    def api_answers(self) -> bool:
        """The API is up."""
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def database_answers(self) -> bool:
        """The database is up."""
        try:
            self.live()
        except OperationalError:
            return False
        return True

    def status(self, job_id: str) -> str:
        """A job's."""
        return self.shop.look(job_id).status

    def live(self) -> int:
        """How many jobs did not end."""
        with reader(self.engine).connect() as connection:
            statuses = connection.scalars(select(Job.status)).all()
        return sum(status in ("queued", "running", "paused") for status in statuses)

    def is_busy(self, member: Member | None = None) -> bool:
        """A trainer runs: anybody's, or this worker's."""
        return bool(trainers_below(self.directory / member.name if member else self.directory))
