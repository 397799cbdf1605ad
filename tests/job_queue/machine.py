"""The statements of the job queue as a state machine on a virtual clock, next to a plain model.

Workers keep leases that they lost and try to write with them; each such write must be refused. For
every step the model knows whether it must succeed and what the row must be afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import Engine, delete, event

from app.core.database import make_engine, transaction
from app.domain.lifecycle import TERMINAL, TRANSITIONS, DesiredState, JobStatus
from app.job_queue import kinds, transitions
from app.job_queue.claim import ClaimTerms, claim_next_job
from app.job_queue.events import Event, upsert_metrics
from app.job_queue.lease import Lease, LeaseLostError, write_with_lease
from app.job_queue.lease_watch import SeenLease
from app.models import Job

TENANTS = ("acme", "other")
QUEUES = ("train", "preflight")
LEASE_MS, LONGEST_DELAY_MS, QUOTA, CAP = 1000, 6000, 1, 3
TERMS = ClaimTerms(LEASE_MS, QUOTA, LONGEST_DELAY_MS)
BASE_MODELS = ("tiny", "small")
START_MS = 1_800_000_000_000


ROWS = """
    SELECT jobs.id, status, desired, jobs.attempt, lease_owner, failures, crashes, stalls,
        coalesce(lease_expires_at, 0), event_seq, finished_at IS NOT NULL, checkpoint_id IS NULL,
        count(*), min(seq), max(seq)
    FROM jobs JOIN job_events ON job_id = jobs.id GROUP BY jobs.id ORDER BY jobs.id
"""
METRICS = "SELECT job_id, step, value, attempt FROM job_metrics ORDER BY job_id, step"


class Clock:
    """The database's clock."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def julian_day(self, _when: str) -> float:
        return self.now_ms / 86_400_000 + 2440587.5


def virtual_engine(url: str, clock: Clock) -> Engine:
    """Return an SQLite engine with the clock's ``julianday('now')`` that does not sync to disk."""
    engine = make_engine(url)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("julianday", 1, clock.julian_day)
        connection.execute("PRAGMA synchronous=OFF")

    return engine


@dataclass
class Model:
    """The expected state of a job."""

    id: str
    tenant: str
    queue: str
    kind: str
    priority: int
    number: int
    status: str = "queued"
    desired: str = "run"
    attempt: int = 0
    owner: str | None = None
    expires: int = 0
    run_after: int = START_MS

    @property
    def base_model(self) -> str:
        return BASE_MODELS[self.number % len(BASE_MODELS)]

    failures: int = 0
    crashes: int = 0
    stalls: int = 0
    events: int = 1
    metrics: dict[int, tuple[float, int]] = field(default_factory=dict)


class Held(tuple[str, int, str]):
    """A lease as a worker has stored it."""


class JobQueueMachine(RuleBasedStateMachine):
    """Runs statements and their model side by side; ``make_machine`` sets engine and self.clock."""

    engine: Engine
    clock: Clock
    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Model] = {}
        self.seen: list[SeenLease] = []
        self.claims = 0
        with self.engine.begin() as connection:
            connection.execute(delete(Job))

    # -- the rules -----------------------------------------------------------------------

    @initialize(
        target=jobs,
        wanted=st.lists(
            st.tuples(st.sampled_from(TENANTS), st.sampled_from(QUEUES), st.integers(0, 1)),
            min_size=3,
            max_size=5,
        ),
    )
    def queue_jobs(self, wanted: list[tuple[str, str, int]]) -> Any:
        """Queue enough jobs that some wait behind others."""
        return multiple(*[self._submit(*job) for job in wanted])

    @rule(
        target=jobs,
        tenant=st.sampled_from(TENANTS),
        queue=st.sampled_from(QUEUES),
        priority=st.integers(0, 1),
    )
    def submit(self, tenant: str, queue: str, priority: int) -> str:
        return self._submit(tenant, queue, priority)

    def _submit(self, tenant: str, queue: str, priority: int) -> str:
        number = len(self.model)
        kind = kinds.INSPECT.name if queue == "preflight" else kinds.TRAIN.name
        job = Model(f"job_{number:04}", tenant, queue, kind, priority, number)
        job.run_after = self.clock.now_ms
        with transaction(self.engine) as session:
            transitions.insert_job(
                session,
                Job(
                    id=job.id,
                    tenant_id=tenant,
                    kind=kind,
                    queue=queue,
                    priority=priority,
                    created_at=START_MS + number,
                    spec={},
                    spec_sha256="",
                    base_model=job.base_model,
                    checkpoint_id="ckpt",
                ),
            )
        self.model[job.id] = job
        return job.id

    @rule(target=leases)
    def claim_from_each(self) -> Any:
        return multiple(*[lease for queue in QUEUES if (lease := self._claim(queue))])

    @rule(target=leases, queue=st.sampled_from(QUEUES))
    def claim(self, queue: str) -> Any:
        lease = self._claim(queue)
        return lease if lease else multiple()

    def _claim(self, queue: str) -> Held | None:
        self.claims += 1
        owner = f"host-{self.claims % 2}/0:{self.claims}"
        with transaction(self.engine) as session:
            terms = replace(TERMS, takes_turns=queue == "preflight")
            got = claim_next_job(session, queue, owner, "host", terms)
        wanted = self._best(queue)
        assert (got and got.id) == (wanted and wanted.id)
        if wanted is None:
            return None
        wanted.status, wanted.owner = "running", owner
        wanted.attempt += 1
        wanted.expires = self.clock.now_ms + LEASE_MS
        wanted.events += 1
        return Held((wanted.id, wanted.attempt, owner))

    @rule(ms=st.sampled_from([1, 400, 950, 1050, 1200, 700_000, -1000, -700_000]))
    def time_passes(self, ms: int) -> None:
        """Let time pass, or the clock step back."""
        self.clock.now_ms += ms

    @rule()
    def look_at_leases(self) -> None:
        self.seen = [
            SeenLease(job.id, job.attempt, job.expires)
            for job in self.model.values()
            if job.status == "running"
        ]

    @rule(lease=leases, events=st.integers(0, 2))
    def heartbeat(self, lease: Held, events: int) -> None:
        news = [Event("x", "X")] * events
        self._fenced(lease, lambda s, held: write_with_lease(s, held, LEASE_MS, news), events)

    @rule(lease=leases)
    def forge(self, lease: Held) -> None:
        """A lease with one wrong part is refused."""
        job_id, attempt, owner = lease
        for forged in (
            Held((job_id, attempt + 1, owner)),
            Held((job_id, attempt, owner + "x")),
            Held((job_id + "x", attempt, owner)),
        ):
            self._fenced(forged, lambda s, held: write_with_lease(s, held, LEASE_MS), 0)

    @rule(lease=leases, step=st.integers(1, 3), value=st.floats(0, 9))
    def metric(self, lease: Held, step: int, value: float) -> None:
        def write(session: Any, held: Any) -> None:
            write_with_lease(session, held, LEASE_MS)
            upsert_metrics(session, held.job_id, held.attempt, step, {"train/loss": value})

        if job := self._fenced(lease, write, 0):
            job.metrics[step] = (value, job.attempt)

    @rule(lease=leases)
    def progress(self, lease: Held) -> None:
        """A newer checkpoint resets the counts."""
        forgiven: Any = {"failures": 0, "crashes": 0, "stalls": 0}
        if job := self._fenced(
            lease, lambda s, held: write_with_lease(s, held, LEASE_MS, **forgiven), 0
        ):
            job.failures = job.crashes = job.stalls = 0

    @rule(lease=leases)
    def finish(self, lease: Held) -> None:
        if job := self._leave(lease, JobStatus.SUCCEEDED):
            self._end(job, "succeeded")

    @rule(lease=leases, is_retryable=st.booleans())
    def fail(self, lease: Held, is_retryable: bool) -> None:
        status = transitions.status_after_failure(
            is_retryable=is_retryable, max_failures=CAP, max_stalls=CAP
        )
        values = {"failures": Job.failures + 1, "stalls": Job.stalls + 1}
        if job := self._leave(lease, status, **values):
            job.failures += 1
            job.stalls += 1
            has_tries = job.failures < CAP and job.stalls < CAP
            if job.desired == "cancel":
                self._end(job, "cancelled")
            elif is_retryable and has_tries:
                self._end(job, "paused" if job.desired == "pause" else "queued")
            else:
                self._end(job, "failed")

    @rule(lease=leases)
    def release(self, lease: Held) -> None:
        if job := self._leave(lease, transitions.status_after_release()):
            self._end(job, {"cancel": "cancelled", "pause": "paused"}.get(job.desired, "queued"))

    @rule(
        prefix=st.sampled_from([None, None, "host-0/0:", "host-1/0:"]),
        backoff_ms=st.sampled_from([50, 5000]),
    )
    def sweep(self, prefix: str | None, backoff_ms: int) -> None:
        with transaction(self.engine) as session:
            swept = transitions.sweep(
                session,
                lost=self.seen,
                backoff_ms=backoff_ms,
                max_crashes=CAP,
                max_stalls=CAP,
                owner_prefix=prefix,
            )
        lost = [
            job
            for job in self.model.values()
            if job.status == "running"
            and (
                job.owner.startswith(prefix)
                if prefix and job.owner
                else (job.id, job.attempt, job.expires) in self.seen
            )
        ]
        assert {job.id for job in swept} == {job.id for job in lost}
        for job in lost:
            job.crashes += 1
            job.stalls += 1
            job.events += 1
            job.run_after = self.clock.now_ms + backoff_ms
            if job.desired == "cancel":
                self._end(job, "cancelled")
            elif job.crashes >= CAP or job.stalls >= CAP:
                self._end(job, "failed")
            else:
                self._end(job, "paused" if job.desired == "pause" else "queued")

    @rule(
        job_id=jobs,
        states=st.lists(st.sampled_from(list(DesiredState)), min_size=1, max_size=3),
        tenant=st.sampled_from(TENANTS),
    )
    def request(self, job_id: str, states: list[DesiredState], tenant: str) -> None:
        for desired in states:
            self._request(job_id, desired, tenant)

    @rule(
        lease=leases,
        states=st.lists(st.sampled_from(list(DesiredState)), min_size=2, max_size=3),
    )
    def change_desired_state(self, lease: Held, states: list[DesiredState]) -> None:
        """The owner of a claimed job changes the desired state several times."""
        for desired in states:
            self._request(lease[0], desired, self.model[lease[0]].tenant)

    def _request(self, job_id: str, desired: DesiredState, tenant: str) -> None:
        job = self.model[job_id]
        with transaction(self.engine) as session:
            answer = transitions.set_desired_state(session, tenant, job_id, desired)
        if tenant != job.tenant or job.status in TERMINAL:
            assert answer is None
            return
        assert answer is not None
        if job.desired == "cancel":
            return  # never taken back
        idle = {"cancel": "cancelled", "pause": "paused", "run": "queued"}[desired]
        if job.desired != desired or job.status not in ("running", idle):
            job.events += 1
        job.desired = desired
        if job.status != "running":
            self._move(job, idle)

    @rule(tenant=st.sampled_from(TENANTS))
    def remove(self, tenant: str) -> None:
        for job in self.model.values():
            may = tenant == job.tenant and job.status in TERMINAL
            with transaction(self.engine) as session:
                assert transitions.delete_job(session, tenant, job.id) == may
                session.rollback()  # the model keeps it

    # -- invariants ----------------------------------------------------------------------

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        # Without SQLAlchemy, which would take three quarters of the time of a step.
        raw = self.engine.raw_connection()
        try:
            rows = raw.cursor().execute(ROWS).fetchall()
            metrics = raw.cursor().execute(METRICS).fetchall()
        finally:
            raw.close()
        wanted = [
            (
                *(job.id, job.status, job.desired, job.attempt, job.owner),
                *(job.failures, job.crashes, job.stalls, job.expires, job.events),
                *(job.status in TERMINAL, job.status == "cancelled"),
                *(job.events, 1, job.events),
            )
            for job in self.model.values()
        ]
        assert rows == wanted
        assert metrics == [
            (job.id, step, value, attempt)
            for job in self.model.values()
            for step, (value, attempt) in sorted(job.metrics.items())
        ]

    # -- the model -----------------------------------------------------------------------

    def _best(self, queue: str) -> Model | None:
        running = [
            job.tenant
            for job in self.model.values()
            if job.status == "running" and job.kind != "preflight"
        ]
        may = [
            job
            for job in self.model.values()
            if job.queue == queue
            and job.status == "queued"
            and job.desired == "run"
            and (job.attempt == 0 or not 0 < job.run_after - self.clock.now_ms <= LONGEST_DELAY_MS)
            and (job.kind == "preflight" or running.count(job.tenant) < QUOTA)
        ]
        if queue != "preflight":
            return min(may, key=lambda job: (-job.priority, job.number), default=None)
        busy = [
            job for job in self.model.values() if job.status == "running" and job.queue == queue
        ]
        may = [job for job in may if job.base_model not in {other.base_model for other in busy}]
        tenants = {job.tenant for job in busy}
        return min(
            may, key=lambda job: (job.tenant in tenants, -job.priority, job.number), default=None
        )

    def _fenced(self, lease: Held, write: Callable[[Any, Any], Any], events: int) -> Model | None:
        """Write with a lease; return the job if the lease must hold, None if it must not."""
        job_id, attempt, owner = lease
        job = self.model.get(job_id)
        holds = job is not None and (job.attempt, job.owner) == (attempt, owner)
        try:
            with transaction(self.engine) as session:
                write(session, Lease(*lease))
        except LeaseLostError:
            assert not holds
            return None
        assert holds
        assert job is not None
        job.expires = self.clock.now_ms + LEASE_MS
        job.events += events
        return job

    def _leave(self, lease: Held, status: Any, **values: Any) -> Model | None:
        end = [Event("end", "End.")]
        return self._fenced(
            lease, lambda s, held: transitions.transition(s, held, status, end, **values), 1
        )

    def _end(self, job: Model, status: str) -> None:
        job.owner, job.expires = None, 0
        self._move(job, status)

    def _move(self, job: Model, status: str) -> None:
        if status != job.status:
            assert status in TRANSITIONS[JobStatus(job.status)]
        job.status = status


def make_machine(engine: Engine, clock: Clock) -> type[JobQueueMachine]:
    """Return the state machine on this engine and clock."""
    return type("BoundMachine", (JobQueueMachine,), {"engine": engine, "clock": clock})
