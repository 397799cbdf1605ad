"""The faults that are injected into the service, drawn from the seed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import psutil
import redis
from sqlalchemy.exc import OperationalError

from bench.chaos.stack import GRACE_SECONDS, LEASE_SECONDS, ServiceProcess, Stack
from tests.supervisor.workshop import trainers_below

#: Long enough that another worker has a free slot in the meantime.
FROZEN_SECONDS = LEASE_SECONDS + GRACE_SECONDS + 5


class Faults:
    """Injects faults into a stack and counts them.

    A method that injects a fault returns whether it hit a running job, or None if there was
    nothing to inject the fault into.
    """

    def __init__(self, stack: Stack, draws: random.Random) -> None:
        self._stack, self._draws = stack, draws
        self.count: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        #: Name → (weight, injection).
        self._kinds: dict[str, tuple[int, Callable[[], bool | None]]] = {
            "kill worker": (5, lambda: self._signal_worker(signal.SIGKILL)),
            "kill trainer": (5, self._kill_trainer),
            "freeze worker": (3, self._freeze_worker),
            "drain worker": (3, lambda: self._signal_worker(signal.SIGTERM)),
            "kill api": (1, self._kill_api),
        }
        if stack.is_postgres:
            self._kinds |= {
                "kill redis": (1, self._kill_redis),
                "flush redis": (1, self._flush_redis),
                "freeze redis": (1, self._freeze_redis),
                "restart postgres": (1, self._restart_postgres),
                "proxy drop": (2, self._proxy_drop),
                "proxy delay": (1, self._proxy_delay),
                "proxy half-open": (1, self._proxy_half_open),
            }
        else:
            self._kinds["lock database"] = (2, self._lock_database)

    def inject(self) -> None:
        """Inject one fault of a random kind."""
        weights = [weight for weight, _ in self._kinds.values()]
        name = self._draws.choices(list(self._kinds), weights)[0]
        is_hit = self._kinds[name][1]()
        if is_hit is not None:
            self.count[name] += 1
            self.hits[name] += is_hit

    # -- workers, trainers, the API ----------------------------------------------------------

    def _pick_worker(self) -> tuple[ServiceProcess, bool] | None:
        """Choose a worker that is not frozen, usually one that trains; return whether it does."""
        awake = [w for w in self._stack.workers if not w.frozen_until]
        if not awake:
            return None
        training = [w for w in awake if self._stack.is_training(w)]
        prefers_training = training and self._draws.random() < 0.9
        chosen = self._draws.choice(training if prefers_training else awake)
        return chosen, chosen in training

    def _signal_worker(self, number: int) -> bool | None:
        if not (picked := self._pick_worker()):
            return None
        picked[0].signal(number)
        return picked[1]

    def _freeze_worker(self) -> bool | None:
        workers = self._stack.workers
        if sum(bool(w.frozen_until) for w in workers) >= len(workers) // 2:
            return None
        if not (picked := self._pick_worker()):
            return None
        try:
            # In a transaction, so that the worker does not hold SQLite's only write lock.
            with self._stack.engine.begin():
                picked[0].signal(signal.SIGSTOP)
        except OperationalError:  # the database was locked for longer than the timeout
            return None
        picked[0].frozen_until = time.monotonic() + FROZEN_SECONDS
        return picked[1]

    def _kill_trainer(self) -> bool | None:
        trainers = trainers_below(self._stack.directory)
        if not trainers:
            return None
        try:
            self._draws.choice(trainers).kill()
        except psutil.NoSuchProcess:
            return None
        return True

    def _kill_api(self) -> bool:
        self._stack.api.signal(signal.SIGKILL)
        return self._stack.is_training()

    # -- Redis -------------------------------------------------------------------------------

    def _kill_redis(self) -> bool | None:
        server = self._stack.redis
        assert server
        if server.process is None:
            return None
        server.stop()
        server.process = None
        self._stack.schedule(self._draws.uniform(0.5, 4), server.start)
        return self._stack.is_training()

    def _flush_redis(self) -> bool | None:
        assert self._stack.redis
        try:
            with redis.Redis.from_url(self._stack.redis.url, socket_timeout=1) as client:
                client.flushall()
        except redis.RedisError:
            return None
        return self._stack.is_training()

    def _freeze_redis(self) -> bool | None:
        assert self._stack.redis
        if (process := self._stack.redis.process) is None:
            return None
        process.send_signal(signal.SIGSTOP)
        seconds = self._draws.uniform(2, 15)
        self._stack.schedule(seconds, lambda: process.send_signal(signal.SIGCONT))
        return self._stack.is_training()

    # -- databases and proxies ---------------------------------------------------------------

    def _restart_postgres(self) -> bool:
        assert self._stack.postgres
        is_hit = self._stack.is_training()
        self._stack.postgres.stop("immediate")
        time.sleep(self._draws.uniform(0, 1.5))
        self._stack.postgres.start()
        self._stack.engine.dispose()
        self._stack.wait_until("PostgreSQL", self._stack.is_database_up, 60)
        return is_hit

    def _proxy_drop(self) -> bool:
        self._draws.choice(self._stack.proxies).drop()
        return self._stack.is_training()

    def _proxy_delay(self) -> bool:
        proxy = self._draws.choice(self._stack.proxies)
        proxy.delay_seconds = self._draws.uniform(0.1, 0.4)
        self._stack.schedule(self._draws.uniform(2, 6), proxy.heal)
        return self._stack.is_training()

    def _proxy_half_open(self) -> bool:
        proxy = self._draws.choice(self._stack.proxies)
        proxy.is_half_open = True
        self._stack.schedule(self._draws.uniform(2, 10), proxy.heal)
        return self._stack.is_training()

    def _lock_database(self) -> bool:
        """Let another process hold SQLite's write lock for up to 3 s."""
        is_hit = self._stack.is_training()
        code = (
            "import sqlite3,sys,time;c=sqlite3.connect(sys.argv[1],timeout=30);"
            "c.execute('BEGIN IMMEDIATE');time.sleep(float(sys.argv[2]))"
        )
        path, seconds = self._stack.directory / "chaos.db", self._draws.uniform(0.5, 3)
        subprocess.Popen([sys.executable, "-c", code, str(path), str(seconds)])
        return is_hit
