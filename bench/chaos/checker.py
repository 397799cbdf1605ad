"""Decides whether anything was lost, done twice or done wrong."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select

from app.core.database import reader, transaction
from app.models import Adapter, Job, JobEvent, JobMetric
from bench.chaos.load import STEP_MS, Wanted
from bench.chaos.stack import GRACE, LEASE, Stack
from tests.supervisor.workshop import attempts_below

#: How often it is looked which trainers live.
LOOK_SECONDS = 1.0


class Checker:
    """Looks at a stack while it runs and when it is done."""

    def __init__(self, stack: Stack, jobs: dict[str, Wanted]) -> None:
        self._stack, self._jobs = stack, jobs
        self.together: set[tuple[str, str]] = set()
        self.attempts = self.steps = self.exposed = 0

    def keep_looking(self) -> None:
        """From now on, whenever the stack is tended."""
        self.look()
        self._stack.soon(LOOK_SECONDS, self.keep_looking)

    def look(self) -> None:
        """Which attempts live together: the only witness of what real trainers do."""
        living: dict[str, set[str]] = {}
        for directory in attempts_below(self._stack.directory):
            living.setdefault(directory.parent.name, set()).add(directory.name)
        self.together |= {
            (job, " and ".join(sorted(attempts)))
            for job, attempts in living.items()
            if len(attempts) > 1
        }

    def check(self) -> list[str]:
        """What is wrong, a line each."""
        wrong: list[str] = []
        self.attempts = 0
        with transaction(self._stack.engine) as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
            adapters = session.scalars(select(Adapter.job_id)).all()
        for wanted in self._jobs.values():
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
        with transaction(self._stack.engine) as session:
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
        shop = self._stack.shop
        found = shop.adapter(wanted.id)
        if wanted.is_real:
            twin = next(w.id for w in self._jobs.values() if w.is_real)
            expected = shop.adapter(twin)
            found, expected = ({n: f[n] for n in f if n.endswith("safetensors")}
                               for f in (found, expected))  # fmt: skip
        else:
            expected = shop.expected(wanted.steps)
        wrong = []
        if found != expected:
            wrong.append(f"{wanted.id}: its adapter is not its twin's")
        with transaction(self._stack.engine) as session:
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

    def overlaps(self) -> list[str]:
        """What attempts did after the next one began, one line for each that did anything."""
        with transaction(reader(self._stack.engine)) as session:
            lost = {
                (event.job_id, event.attempt)
                for event in session.scalars(select(JobEvent).where(JobEvent.type == "worker_lost"))
            }
        self.steps = self.exposed = 0
        newest: dict[str, tuple[int, int, int]] = {}  # attempt, last seen, when it would be done
        late: Counter[tuple[str, int, int]] = Counter()
        lines = (self._stack.shop.base_model.parent / "witness").read_text().splitlines()
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
            left = self._jobs[job].steps - int(step)
            newest[job] = int(attempt), int(at), int(at) + left * STEP_MS * 10**6
            self.steps += 1
        return [
            f"overlap: {job} attempt {attempt} took {count} steps while {following} ran"
            for (job, attempt, following), count in late.items()
        ] + [
            f"overlap: {job} attempts {attempts} lived together" for job, attempts in self.together
        ]
