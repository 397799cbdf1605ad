"""Decides whether the service lost, repeated or corrupted anything."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select

from app.core.database import reader, transaction
from app.models import Adapter, Job, JobEvent, JobMetric
from bench.chaos.load import STEP_MS, ExpectedJob
from bench.chaos.stack import GRACE_SECONDS, LEASE_SECONDS, Stack
from tests.supervisor.workshop import attempts_below

#: Seconds between two listings of live trainers.
SAMPLE_SECONDS = 1.0
NS_PER_MS, NS_PER_SECOND = 10**6, 10**9


class Checker:
    """Observes a stack while it runs, and checks the result at the end."""

    def __init__(self, stack: Stack, jobs: dict[str, ExpectedJob]) -> None:
        self._stack, self._jobs = stack, jobs
        #: Job id and the attempts whose trainers were alive at the same time.
        self.concurrent: set[tuple[str, str]] = set()
        #: Takeovers at which an orphaned trainer would still have been running.
        self.exposed_takeovers = 0
        self.attempts = self.steps = 0

    def start_sampling(self) -> None:
        """Call :meth:`sample` every SAMPLE_SECONDS while the stack is maintained."""
        self.sample()
        self._stack.schedule(SAMPLE_SECONDS, self.start_sampling)

    def sample(self) -> None:
        """Record which attempts are alive together; for real trainers this is the only evidence."""
        live: dict[str, set[str]] = {}
        for directory in attempts_below(self._stack.directory):
            live.setdefault(directory.parent.name, set()).add(directory.name)
        self.concurrent |= {
            (job, " and ".join(sorted(attempts)))
            for job, attempts in live.items()
            if len(attempts) > 1
        }

    def check(self) -> list[str]:
        """Return the violations, one line each."""
        violations: list[str] = []
        self.attempts = 0
        with transaction(self._stack.engine) as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
            adapters = session.scalars(select(Adapter.job_id)).all()
        for expected in self._jobs.values():
            row = rows.get(expected.id)
            if row is None:
                violations.append(f"lost: {expected.id}")
                continue
            self.attempts += row.attempt
            violations += self._check_status(row, expected, adapters.count(row.id))
            violations += self._check_events(row)
            if row.status == "succeeded":
                violations += self._check_adapter(expected)
                violations += self._check_metrics(expected)
        return violations + self.overlaps()

    def _check_status(self, row: Job, expected: ExpectedJob, adapters: int) -> list[str]:
        violations = []
        if row.status not in expected.final_statuses:
            violations.append(
                f"{row.id} is {row.status} ({row.failure_detail}), not {expected.final_statuses}"
            )
        if (row.status == "succeeded") != (adapters == 1):
            violations.append(f"{row.id} is {row.status} and has {adapters} adapters")
        return violations

    def _check_events(self, row: Job) -> list[str]:
        with transaction(self._stack.engine) as session:
            events = session.execute(
                select(JobEvent.seq, JobEvent.attempt, JobEvent.type)
                .where(JobEvent.job_id == row.id)
                .order_by(JobEvent.seq)
            ).all()
        violations = []
        if [e.seq for e in events] != list(range(1, row.event_seq + 1)):
            violations.append(f"{row.id}: a gap in its events")
        claims = [e.attempt for e in events if e.type == "claimed"]
        if claims != list(range(1, row.attempt + 1)):
            violations.append(f"{row.id}: claims {claims} of {row.attempt} attempts")
        if sorted(e.attempt for e in events) != [e.attempt for e in events]:
            violations.append(f"{row.id}: stale write: an attempt wrote after the next one")
        if [e.type for e in events].count("succeeded") != (row.status == "succeeded"):
            violations.append(f"{row.id}: finished twice")
        return violations

    def _check_adapter(self, expected: ExpectedJob) -> list[str]:
        """Compare the adapter with that of an undisturbed run."""
        workshop = self._stack.workshop
        found = workshop.adapter(expected.id)
        if expected.is_real:
            reference = next(job.id for job in self._jobs.values() if job.is_real)
            undisturbed = workshop.adapter(reference)
            found, undisturbed = (
                {name: files[name] for name in files if name.endswith("safetensors")}
                for files in (found, undisturbed)
            )
        else:
            undisturbed = workshop.expected(expected.steps)
        if found != undisturbed:
            return [f"{expected.id}: its adapter differs from that of an undisturbed run"]
        return []

    def _check_metrics(self, expected: ExpectedJob) -> list[str]:
        with transaction(self._stack.engine) as session:
            rows = session.execute(
                select(JobMetric.step, JobMetric.value)
                .where(JobMetric.job_id == expected.id, JobMetric.name == "train/loss")
                .order_by(JobMetric.step)
            ).all()
        violations = []
        if [row.step for row in rows] != list(range(1, expected.steps + 1)):
            violations.append(
                f"{expected.id}: {len(rows)} steps in its metrics, not {expected.steps}"
            )
        # The fake trainer reports 1 / step.
        if not expected.is_real and any(abs(row.value - 1 / row.step) > 1e-9 for row in rows):
            violations.append(f"{expected.id}: a metric is wrong")
        return violations

    def overlaps(self) -> list[str]:
        """Return a line for each attempt that took steps after the next one had begun.

        The fake trainers append a line to a common file at every step:
        time in ns, job id, attempt and step among others.
        """
        with transaction(reader(self._stack.engine)) as session:
            lost = {
                (event.job_id, event.attempt)
                for event in session.scalars(select(JobEvent).where(JobEvent.type == "worker_lost"))
            }
        self.steps = self.exposed_takeovers = 0
        #: Job id → (newest attempt, time of its last step, time at which it would be done).
        newest: dict[str, tuple[int, int, int]] = {}
        late: Counter[tuple[str, int, int]] = Counter()
        record = self._stack.workshop.base_model.parent / "record"
        for line in sorted(record.read_text().splitlines(), key=lambda line: int(line.split()[0])):
            at, job, attempt, _, _, step = line.split()
            before, last_step_at, done_at = newest.get(job, (0, 0, 0))
            if int(attempt) < before:
                late[job, int(attempt), before] += 1
                continue
            if int(attempt) > before:
                # An orphan holds its slot, so the next attempt would have waited for the lease.
                lease_ns = int(LEASE_SECONDS + GRACE_SECONDS) * NS_PER_SECOND
                earliest = max(int(at), last_step_at + lease_ns)
                self.exposed_takeovers += (job, before) in lost and earliest < done_at
            left = self._jobs[job].steps - int(step)
            newest[job] = int(attempt), int(at), int(at) + left * STEP_MS * NS_PER_MS
            self.steps += 1
        return [
            f"overlap: {job} attempt {attempt} took {count} steps while {following} ran"
            for (job, attempt, following), count in late.items()
        ] + [
            f"overlap: {job} attempts {attempts} were alive together"
            for job, attempts in self.concurrent
        ]
