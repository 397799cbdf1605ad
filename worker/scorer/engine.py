"""The scorer's loop: collects requests, fills batches across them, and answers.

It runs in the main thread: the time limit of chat templates uses a signal, and the resident models
belong to one thread. HTTP runs in another thread and hands work over through a queue.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

import structlog

from app.core.settings import Settings
from app.domain.scoring import ScoredWork, ScoreProblem, ScoreWork
from worker.reward_model.resident_model import ResidentModel
from worker.scorer.adapter_pool import AdapterPool
from worker.scorer.admission import Admission, Arrival
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.metrics import ScorerMetrics
from worker.scorer.pending import Pending, Submitted, Unit

log = structlog.get_logger()

IDLE_POLL_SECONDS = 0.2
#: Maximum number of unanswered requests; further ones get ``scorer_saturated``.
MAX_WAITING = 8192

_Chosen = tuple[Pending, Unit]


class NotFiniteError(Exception):
    """A reward is NaN or infinite."""


class Engine:
    """Scores what ``submit`` hands over until ``run`` ends."""

    def __init__(self, pool: AdapterPool, settings: Settings, metrics: ScorerMetrics) -> None:
        self._pool, self._settings, self._metrics = pool, settings, metrics
        self._inbox: queue.SimpleQueue[Submitted | Arrival] = queue.SimpleQueue()
        self._admission = Admission(pool, self._inbox)
        self._pending: deque[Pending] = deque()
        self.last_used_at = time.monotonic()

    @property
    def waiting(self) -> int:
        """Number of unanswered requests."""
        return self._inbox.qsize() + len(self._pending) + self._admission.waiting

    def submit(self, work: ScoreWork) -> Future[ScoredWork]:
        """Accept work from any thread.

        Raises:
            ScoreRefusedError: the queue is full.
        """
        if self.waiting >= MAX_WAITING:
            problem = ScoreProblem(code="scorer_saturated", detail="the scorer's queue is full")
            raise ScoreRefusedError(problem)
        submitted = Submitted(work)
        # Disable cancellation: setting the result of a cancelled future would raise an error.
        submitted.answer.set_running_or_notify_cancel()
        self._inbox.put(submitted)
        return submitted.answer

    def run(self, stopping: threading.Event) -> None:
        """Score until ``stopping`` is set and all accepted work is answered."""
        while not (stopping.is_set() and not self.waiting):
            self._collect()
            if self._pending:
                self._score_batch()

    def _collect(self) -> None:
        """Take new work. Wait for it only if there is no other work.

        A batch that is not full waits up to ``scorer_wait_ms`` for more work.
        """
        wait = self._settings.scorer_wait_ms / 1000
        first = self._take(0 if self._pending else IDLE_POLL_SECONDS)
        deadline = time.monotonic() + wait
        if first and not self._is_full():
            while (left := deadline - time.monotonic()) > 0 and self._take(left):
                if self._is_full():
                    break
        while self._take(0):
            pass
        self._metrics.waiting.set(self.waiting)

    def _take(self, seconds: float) -> bool:
        try:
            item = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
        except queue.Empty:
            return False
        self.last_used_at = time.monotonic()
        if isinstance(item, Arrival):
            self._pending += self._admission.arrive(item)
            self._metrics.adapters.set(len(self._pool.adapters))
            self._metrics.resident_bytes.set(self._pool.bytes)
        elif (pending := self._admission.admit(item)) is not None:
            self._pending.append(pending)
        return True

    def _is_full(self) -> bool:
        return sum(p.prompt_tokens for p in self._pending) >= self._settings.scorer_batch_tokens

    def _score_batch(self) -> None:
        chosen = self._next_batch()
        try:
            self._score(chosen)
        except Exception as error:
            works = list(dict.fromkeys(pending for pending, _ in chosen))
            log.exception("batch_failed", requests=len(works), error=type(error).__name__)
            # A single request may be the cause, such as one that does not fit into memory.
            for work in works:
                self._score_alone(work, [unit for pending, unit in chosen if pending is work])
        for pending in [p for p in self._pending if p.is_done]:
            self._answer(pending, pending.result())

    def _score_alone(self, pending: Pending, units: Sequence[Unit]) -> None:
        try:
            for unit in units:
                self._score([(pending, unit)])
        except Exception as error:
            log.exception("request_failed", adapters=[a.id for a in pending.adapters])
            self._answer(pending, error)

    def _next_batch(self) -> list[_Chosen]:
        """Take units from each request in turn, so that a large one does not delay the others.

        All units of a batch have the same base model and the same mode.
        """
        first = self._pending[0]
        model, mode = first.adapters[first.units[0].member].model, first.is_deterministic
        chosen: list[_Chosen] = []
        tokens, found = 0, True
        while found and tokens < self._settings.scorer_batch_tokens:
            found = False
            for pending in self._pending:
                is_fitting = pending.units and pending.is_deterministic == mode
                if is_fitting and self._model_of(pending, pending.units[0]) is model:
                    unit = pending.units.popleft()
                    chosen.append((pending, unit))
                    tokens, found = tokens + unit.group.token_count, True
                if tokens >= self._settings.scorer_batch_tokens:
                    break
        self._pending.rotate(-1)
        return chosen

    def _model_of(self, pending: Pending, unit: Unit) -> ResidentModel:
        return pending.adapters[unit.member].model

    def _score(self, chosen: Sequence[_Chosen]) -> None:
        """Compute units of one model and store their rewards."""
        pending, unit = chosen[0]
        model = self._model_of(pending, unit)
        groups = [unit.group for _, unit in chosen]
        result = model.score(groups, is_deterministic=pending.is_deterministic)
        total = sum(group.token_count for group in groups)
        self._metrics.prompt_tokens.inc(total)
        self._metrics.computed_tokens.inc(result.computed_tokens)
        self._metrics.batch_fill.observe(min(1.0, total / self._settings.scorer_batch_tokens))
        for (work, unit), rewards in zip(chosen, result.rewards, strict=True):
            if not all(map(math.isfinite, rewards)):
                raise NotFiniteError(f"item {unit.item} has a reward that is not finite")
            work.rewards[unit.member, unit.item] = rewards
            work.computed_tokens += result.computed_tokens * unit.group.token_count / total

    def _answer(self, pending: Pending, answer: ScoredWork | Exception) -> None:
        self._pending.remove(pending)
        pending.submitted.release()
        self._metrics.queue_seconds.observe(time.monotonic() - pending.submitted.arrived_at)
        self.last_used_at = time.monotonic()
        if isinstance(answer, Exception):
            pending.submitted.answer.set_exception(answer)
        else:
            pending.submitted.answer.set_result(answer)
