"""Faults at the whole service while it trains, and a checker that decides.

    make chaos FAULTS=300                      PostgreSQL and Redis, then SQLite
    python bench/chaos.py --faults 60 --seed 7 --database sqlite
    python bench/chaos.py --faults 60 --sabotage watchdog      must find overlaps, and exit 1

API, workers, databases and brokers are real processes of this machine. Most trainers are fakes
whose training is a chain of hashes (tests/worker/fake_trainer.py), so that many attempts fit into
minutes; ``--real`` jobs train a tiny decoder with torch. Every fault is drawn from the seed. It
counts as a hit when what it struck was running a job then.

The checker: every job ended, in a state that it may end in; every adapter has the bytes of its
undisturbed twin; events are numbered without a gap and end once; metrics are those of an
undisturbed run; no attempt takes a step, and no trainer lives, after the next one began; no
process is left.

A quarter of the jobs last so long that an orphan would be seen; the report says at how many
takeovers. ``--sabotage watchdog`` takes away what ends a fake trainer whose worker is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.api_keys import service as api_keys  # noqa: E402
from app.database import make_engine, reader, transaction  # noqa: E402
from app.migrations import migrate  # noqa: E402
from app.models import Adapter, Job, JobEvent, JobMetric  # noqa: E402
from app.security import Scope  # noqa: E402
from bench.proxy import Proxy  # noqa: E402
from tests.services import PostgresServer, RedisServer, free_port  # noqa: E402
from tests.worker.workshop import Workshop, attempts_below, trainers_below  # noqa: E402

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
#: Long enough that somebody else has a free slot meanwhile.
FROZEN_SECONDS = LEASE + GRACE + 5
#: How often it is looked which trainers live.
LOOK_SECONDS = 1.0
STEP_MS = 50
#: Steps of a job: most are short, so that many end; a quarter would outlast lease and grace twice.
SHORT, LONG = (20, 120), (500, 800)


@dataclass
class Member:
    """A process of the service that is started again whenever it is gone."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    frozen_until: float = 0.0
    is_leaving: bool = False

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


@dataclass
class Wanted:
    """A submitted job and what may become of it."""

    id: str
    steps: int
    ends: set[str] = field(default_factory=lambda: {"succeeded"})
    is_real: bool = False


class Chaos:
    """One run."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options, self.directory = options, directory
        self.random = random.Random(options.seed)
        self.faults: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.jobs: dict[str, Wanted] = {}
        self.together: set[tuple[str, str]] = set()
        self.next_look = 0.0
        self.postgres: PostgresServer | None = None
        self.redis: RedisServer | None = None
        self.proxies: list[Proxy] = []
        self.members: list[Member] = []
        self.is_postgres = options.database == "postgresql"

    # -- the service -------------------------------------------------------------------------

    def open(self) -> None:
        """Databases, API, workers."""
        url = f"sqlite:///{self.directory / 'chaos.db'}"
        extra: dict[str, Any] = {}
        through = url
        if self.is_postgres:
            self.postgres = PostgresServer(self.directory / "postgres")
            self.postgres.start()
            self.redis = RedisServer(self.directory / "redis")
            self.redis.start()
            url = self.postgres.url
            self.proxies = [Proxy(self.postgres.port), Proxy(self.redis.port)]
            for proxy in self.proxies:
                proxy.start()
            through = url.replace(str(self.postgres.port), str(self.proxies[0].port))
            extra["redis_url"] = f"redis://127.0.0.1:{self.proxies[1].port}/0"
        self.engine: Engine = make_engine(url)
        migrate(self.engine)
        self.shop = Workshop(self.engine, self.directory / "shop", **{**TIMINGS, **extra})
        if self.options.real:
            self._real_base_model()
        with transaction(self.engine) as session:
            key = api_keys.create(session, "acme", "chaos", [Scope.ADMIN]).token
        self.port = free_port()
        api = self.shop.environment(database_url=_secret(url))
        self.members = [
            Member(
                "api",
                [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory",
                 "--port", str(self.port), "--log-level", "warning"],
                api,
                self.directory / "api.log",
            )
        ]  # fmt: skip
        for number in range(self.options.workers):
            # Half of the workers reach the databases through proxies that misbehave.
            own = {"data_dir": self.directory / f"worker-{number}"}
            own |= {"database_url": _secret(through if number % 2 else url)}
            self.members.append(
                Member(
                    f"worker-{number}",
                    [sys.executable, "-m", "tests.worker.fake_worker"],
                    self.shop.environment(**own),
                    self.directory / f"worker-{number}.log",
                )
            )
        for member in self.members:
            member.start()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=10,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        with transaction(self.engine) as session:
            session.execute(text("UPDATE datasets SET tenant_id = 'acme'"))

    def _real_base_model(self) -> None:
        from tests.trainer.tiny import make_decoder, make_pairs

        make_decoder(self.directory / "shop" / "models" / "decoder")
        with Path(self.shop.settings.base_models or "").open("a") as file:
            file.write(f"decoder:\n  source: local:{self.shop.base_model.parent / 'decoder'}\n")
        self.real_pairs = "".join(
            json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) + "\n"
            for row in make_pairs(64)
        )

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

    # -- what happens ------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Everything; what is wrong at the end."""
        self._until("the API", lambda: self._api_answers(), 120)
        real = self._submit_real(self.options.real + 1) if self.options.real else []
        if real:  # the first is the twin of the others: it runs before the first fault
            self._until("the twin", lambda: self._status(real[0]) == "succeeded", 600)
        started, next_fault = time.monotonic(), time.monotonic() + 3
        while sum(self.faults.values()) < self.options.faults:
            self._tend()
            if self._live() < 2 * len(self.workers):
                self.submit()
            if time.monotonic() >= next_fault:
                next_fault = time.monotonic() + self.random.uniform(0.5, 1.5) * self.options.every
                self._strike()
            time.sleep(0.05)
        self.seconds = time.monotonic() - started
        for wanted in self.jobs.values():
            if self._status(wanted.id) == "paused":
                self._ask(wanted.id, "resume")
        deadline = time.monotonic() + 300 + 60 * self.options.real
        while self._live() and time.monotonic() < deadline:
            self._tend()
            for wanted in self.jobs.values():
                if self._status(wanted.id) == "paused":
                    self._ask(wanted.id, "resume")
            time.sleep(0.5)
        wrong = self._check()
        for member in self.members:
            member.end()
        time.sleep(1)
        return wrong + [f"orphan: in {place}" for place in attempts_below(self.directory)]

    def _tend(self) -> None:
        now = time.monotonic()
        due = [act for at, act in self.later if at <= now]
        self.later = [(at, act) for at, act in self.later if at > now]
        for act in due:
            act()
        for member in self.members:
            member.tend()
        if now >= self.next_look:
            self.next_look = now + LOOK_SECONDS
            self.look()

    def submit(self) -> None:
        """A fake job; some are cancelled or paused."""
        steps = self.random.randint(*(LONG if self.random.random() < 0.25 else SHORT))
        job_id = self.start(steps)
        draw = self.random.random()
        if draw < 0.1:
            self.jobs[job_id].ends = {"cancelled", "succeeded"}
            self._soon(self.random.uniform(0, 8), lambda: self._ask(job_id, "cancel"))
        elif draw < 0.25:
            self._soon(self.random.uniform(0, 8), lambda: self._ask(job_id, "pause"))
            self._soon(self.random.uniform(9, 15), lambda: self._ask(job_id, "resume"))

    def start(self, steps: int) -> str:
        """A fake job of so many steps; its id."""
        metadata = {
            "steps": steps,
            "step_ms": STEP_MS,
            "checkpoint_steps": self.random.randint(3, 20),
        }
        if self.options.sabotage:
            metadata["fault"] = "outlive"
        job_id = self.shop.submit(metadata=metadata)
        self.jobs[job_id] = Wanted(job_id, steps)
        return job_id

    def _submit_real(self, count: int) -> list[str]:
        answer = self.client.post(
            "/v1/datasets",
            content=self.real_pairs,
            headers={"Content-Type": "application/x-ndjson"},
        )
        answer.raise_for_status()
        spec = {
            "base_model": "decoder",
            "train_dataset": answer.json()["id"],
            "eval_dataset": {"fraction": 0.2},
            "lora": {"r": 4, "dropout": 0.1},
            "training": {
                "max_steps": 60, "batch_size": 8, "per_device_batch_size": 4, "eval_steps": 5,
                "checkpoint_steps": 5, "early_stopping": {"patience": 50}, "learning_rate": 0.01,
            },
            "resources": {"gpus": 0},
            "metadata": {"real": "yes"},
        }  # fmt: skip
        ids = []
        for _ in range(count):
            answer = self.client.post("/v1/jobs", json=spec, timeout=60)
            if answer.is_error:
                raise RuntimeError(answer.text)
            ids.append(answer.json()["id"])
            self.jobs[ids[-1]] = Wanted(ids[-1], 60, is_real=True)
            if len(ids) == 1:
                self._until("the twin", lambda: self._status(ids[0]) == "succeeded", 600)
        return ids

    def _ask(self, job_id: str, what: str) -> None:
        try:
            answer = self.client.post(f"/v1/jobs/{job_id}/{what}")
        except httpx.HTTPError:
            self._soon(1, lambda: self._ask(job_id, what))
            return
        if answer.status_code >= 500:
            self._soon(1, lambda: self._ask(job_id, what))

    # -- faults ------------------------------------------------------------------------------

    def _strike(self) -> None:
        names = {
            "kill worker": 5, "kill trainer": 5, "freeze worker": 3, "drain worker": 3,
            "kill api": 1,
        }  # fmt: skip
        if self.is_postgres:
            names |= {
                "kill redis": 1, "flush redis": 1, "freeze redis": 1, "restart postgres": 1,
                "proxy drop": 2, "proxy delay": 1, "proxy half-open": 1,
            }  # fmt: skip
        else:
            names |= {"lock database": 2}
        name = self.random.choices(list(names), list(names.values()))[0]
        is_hit = getattr(self, "_" + name.replace(" ", "_").replace("-", "_"))()
        if is_hit is None:
            return  # there was nothing to strike
        self.faults[name] += 1
        self.hits[name] += bool(is_hit)

    def _pick(self) -> tuple[Member, bool] | None:
        """A worker that is not frozen, rather a busy one; whether it is busy."""
        awake = [w for w in self.workers if not w.frozen_until and w.process]
        if not awake:
            return None
        busy = [w for w in awake if self._trainers_of(w)]
        chosen = self.random.choice(busy if busy and self.random.random() < 0.9 else awake)
        return chosen, chosen in busy

    def _kill_worker(self) -> bool | None:
        if not (picked := self._pick()):
            return None
        picked[0].signal(signal.SIGKILL)
        return picked[1]

    def _drain_worker(self) -> bool | None:
        if not (picked := self._pick()):
            return None
        picked[0].signal(signal.SIGTERM)
        return picked[1]

    def _freeze_worker(self) -> bool | None:
        if sum(bool(w.frozen_until) for w in self.workers) >= len(self.workers) // 2:
            return None
        if not (picked := self._pick()):
            return None
        try:
            with self.engine.begin():  # not while it holds SQLite's one write lock itself
                picked[0].signal(signal.SIGSTOP)
        except OperationalError:  # busy for longer than anybody waits
            return None
        picked[0].frozen_until = time.monotonic() + FROZEN_SECONDS
        return picked[1]

    def _kill_trainer(self) -> bool | None:
        trainers = trainers_below(self.directory)
        if not trainers:
            return None
        try:
            self.random.choice(trainers).kill()
        except psutil.NoSuchProcess:
            return None
        return True

    def _kill_api(self) -> bool:
        self.members[0].signal(signal.SIGKILL)
        return self._is_busy()

    def _kill_redis(self) -> bool | None:
        assert self.redis
        if self.redis.process is None:
            return None
        self.redis.stop()
        self.redis.process = None
        self._soon(self.random.uniform(0.5, 4), self.redis.start)
        return self._is_busy()

    def _flush_redis(self) -> bool | None:
        assert self.redis
        try:
            with redis.Redis.from_url(self.redis.url, socket_timeout=1) as client:
                client.flushall()
        except redis.RedisError:
            return None
        return self._is_busy()

    def _freeze_redis(self) -> bool | None:
        assert self.redis
        if (process := self.redis.process) is None:
            return None
        process.send_signal(signal.SIGSTOP)
        self._soon(self.random.uniform(2, 15), lambda: process.send_signal(signal.SIGCONT))
        return self._is_busy()

    def _restart_postgres(self) -> bool:
        assert self.postgres
        is_busy = self._is_busy()
        self.postgres.stop("immediate")
        time.sleep(self.random.uniform(0, 1.5))
        self.postgres.start()
        self.engine.dispose()
        self._until("PostgreSQL", self._database_answers, 60)
        return is_busy

    def _database_answers(self) -> bool:
        try:
            self._live()
        except OperationalError:
            return False
        return True

    def _proxy_drop(self) -> bool:
        self.random.choice(self.proxies).drop()
        return self._is_busy()

    def _proxy_delay(self) -> bool:
        proxy = self.random.choice(self.proxies)
        proxy.delay_seconds = self.random.uniform(0.1, 0.4)
        self._soon(self.random.uniform(2, 6), proxy.heal)
        return self._is_busy()

    def _proxy_half_open(self) -> bool:
        proxy = self.random.choice(self.proxies)
        proxy.is_mute = True
        self._soon(self.random.uniform(2, 10), proxy.heal)
        return self._is_busy()

    def _lock_database(self) -> bool:
        """Another process writes for a while."""
        is_busy = self._is_busy()
        code = (
            "import sqlite3,sys,time;c=sqlite3.connect(sys.argv[1],timeout=30);"
            "c.execute('BEGIN IMMEDIATE');time.sleep(float(sys.argv[2]))"
        )
        subprocess.Popen(
            [sys.executable, "-c", code, str(self.directory / "chaos.db"),
             str(self.random.uniform(0.5, 3))]
        )  # fmt: skip
        return is_busy

    # -- the checker -------------------------------------------------------------------------

    def _check(self) -> list[str]:
        wrong: list[str] = []
        self.attempts = 0
        with transaction(self.engine) as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
            adapters = session.scalars(select(Adapter.job_id)).all()
        for wanted in self.jobs.values():
            row = rows.get(wanted.id)
            if row is None:
                wrong.append(f"lost: {wanted.id}")
                continue
            self.attempts += row.attempt
            if row.status not in wanted.ends:
                wrong.append(
                    f"{wanted.id} is {row.status} ({row.failure_detail}), not {wanted.ends}"
                )
            if (row.status == "succeeded") != (adapters.count(wanted.id) == 1):
                wrong.append(
                    f"{wanted.id} is {row.status} and has {adapters.count(wanted.id)} adapters"
                )
            wrong += self._wrong_events(row)
            if row.status == "succeeded":
                wrong += self._wrong_result(wanted)
        return wrong + self.overlaps()

    def _wrong_events(self, row: Job) -> list[str]:
        with transaction(self.engine) as session:
            events = session.execute(
                select(JobEvent.seq, JobEvent.attempt, JobEvent.type)
                .where(JobEvent.job_id == row.id)
                .order_by(JobEvent.seq)
            ).all()
        wrong = []
        if [e.seq for e in events] != list(range(1, row.event_seq + 1)):
            wrong.append(f"{row.id}: a gap in its events")
        claims = [e.attempt for e in events if e.type == "claimed"]
        if claims != list(range(1, row.attempt + 1)):
            wrong.append(f"{row.id}: claims {claims} of {row.attempt} attempts")
        if sorted(e.attempt for e in events) != [e.attempt for e in events]:
            wrong.append(f"{row.id}: a stale write, an attempt wrote after the next one")
        if [e.type for e in events].count("succeeded") != (row.status == "succeeded"):
            wrong.append(f"{row.id}: finished twice")
        return wrong

    def _wrong_result(self, wanted: Wanted) -> list[str]:
        found = self.shop.adapter(wanted.id)
        if wanted.is_real:
            twin = next(w.id for w in self.jobs.values() if w.is_real)
            expected = self.shop.adapter(twin)
            found, expected = ({n: f[n] for n in f if n.endswith("safetensors")}
                               for f in (found, expected))  # fmt: skip
        else:
            expected = self.shop.expected(wanted.steps)
        wrong = []
        if found != expected:
            wrong.append(f"{wanted.id}: its adapter is not its twin's")
        with transaction(self.engine) as session:
            steps = session.execute(
                select(JobMetric.step, JobMetric.value)
                .where(JobMetric.job_id == wanted.id, JobMetric.name == "train/loss")
                .order_by(JobMetric.step)
            ).all()
        if [s.step for s in steps] != list(range(1, wanted.steps + 1)):
            wrong.append(f"{wanted.id}: {len(steps)} steps in its metrics, not {wanted.steps}")
        if not wanted.is_real and any(abs(s.value - 1 / s.step) > 1e-9 for s in steps):
            wrong.append(f"{wanted.id}: a metric is wrong")
        return wrong

    def look(self) -> None:
        """Which attempts live together: the only witness of what real trainers do."""
        living: dict[str, set[str]] = {}
        for directory in attempts_below(self.directory):
            living.setdefault(directory.parent.name, set()).add(directory.name)
        self.together |= {
            (job, " and ".join(sorted(attempts)))
            for job, attempts in living.items()
            if len(attempts) > 1
        }

    def overlaps(self) -> list[str]:
        """What attempts did after the next one began, one line for each that did anything."""
        with transaction(reader(self.engine)) as session:
            lost = {
                (event.job_id, event.attempt)
                for event in session.scalars(select(JobEvent).where(JobEvent.type == "worker_lost"))
            }
        self.steps = self.exposed = 0
        newest: dict[str, tuple[int, int, int]] = {}  # attempt, last seen, when it would be done
        late: Counter[tuple[str, int, int]] = Counter()
        lines = (self.shop.base_model.parent / "witness").read_text().splitlines()
        for line in sorted(lines, key=lambda line: int(line.split()[0])):
            at, job, attempt, _, _, step = line.split()
            before, seen, until = newest.get(job, (0, 0, 0))
            if int(attempt) < before:
                late[job, int(attempt), before] += 1
                continue
            if int(attempt) > before:
                # An orphan holds its slot: the next attempt would have had to wait for the lease.
                earliest = max(int(at), seen + int(LEASE + GRACE) * 10**9)
                self.exposed += (job, before) in lost and earliest < until
            left = self.jobs[job].steps - int(step)
            newest[job] = int(attempt), int(at), int(at) + left * STEP_MS * 10**6
            self.steps += 1
        return [
            f"overlap: {job} attempt {attempt} took {count} steps while {following} ran"
            for (job, attempt, following), count in late.items()
        ] + [
            f"overlap: {job} attempts {attempts} lived together" for job, attempts in self.together
        ]

    # -- small things ------------------------------------------------------------------------

    def _soon(self, seconds: float, act: Callable[[], object]) -> None:
        self.later.append((time.monotonic() + seconds, act))

    def _until(self, what: str, is_true: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}; see {self.directory}")
            self._tend()
            time.sleep(0.2)

    def _api_answers(self) -> bool:
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def _status(self, job_id: str) -> str:
        return self.shop.look(job_id).status

    def _live(self) -> int:
        with reader(self.engine).connect() as connection:
            statuses = connection.scalars(select(Job.status)).all()
        return sum(status in ("queued", "running", "paused") for status in statuses)

    def _is_busy(self) -> bool:
        return bool(trainers_below(self.directory))

    def _trainers_of(self, member: Member) -> bool:
        own = self.directory / member.name
        return bool(trainers_below(own))


def _secret(url: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(url)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--real", type=int, default=0, help="Jobs of the real trainer.")
    parser.add_argument("--every", type=float, default=1.5, help="Seconds between two faults.")
    parser.add_argument("--keep", action="store_true", help="Leave the directory.")
    parser.add_argument(
        "--sabotage", choices=["watchdog"], help="Break the trainers: the checker must see it."
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Run, print the figures, exit 1 when something is wrong."""
    options = options_of()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(options, directory)
    print(f"seed {options.seed}, {options.database}, {directory}", flush=True)
    try:
        chaos.open()
        wrong = chaos.run()
    finally:
        chaos.close()
    report(chaos, wrong)
    return 1 if wrong else 0


def report(chaos: Chaos, wrong: list[str]) -> None:
    """The figures."""
    total, hits = sum(chaos.faults.values()), sum(chaos.hits.values())
    print(f"{total} faults in {chaos.seconds:.0f} s, {hits} of them while a job ran")
    for name in sorted(chaos.faults):
        print(f"  {name:18}{chaos.faults[name]:5} {chaos.hits[name]:5}")
    with_real = sum(w.is_real for w in chaos.jobs.values())
    print(
        f"{len(chaos.jobs)} jobs ({with_real} real), {chaos.attempts} attempts, {chaos.steps} steps"
    )
    print(f"{chaos.exposed} takeovers at which an orphan would still have run")
    print("WRONG:" if wrong else "nothing wrong: 0 lost, 0 finished twice, 0 overlaps, "
          "0 stale writes, 0 orphans, every adapter equal to its twin's")  # fmt: skip
    for line in wrong:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
