"""Keeps a lease while its job is worked on, and hears what the job's owner wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import (
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.backoff import exponential_delays
from app.domain.lifecycle import DesiredState
from app.job_queue import worker_api
from app.job_queue.lease import LeaseLostError, WriteContext
from worker.supervisor.trainer_process import TrainerProcess

log = structlog.get_logger()

#: The database is away, restarts, fails over, or is full: to be waited for, not the job's fault.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
T = TypeVar("T")


class LeaseRenewer(threading.Thread):
    """Renews the lease every heartbeat and looks for cancel, pause and drain in between.

    ``interrupt`` is set when the work should end: the lease is lost, or somebody asked for it.
    A supervisor that could not renew for ``self_fence_seconds`` kills its trainer, well before
    another worker may take the job; a thread of its own sees to that, for a database that froze
    answers no heartbeat at all.
    """

    def __init__(
        self,
        context: WriteContext,
        draining: threading.Event,
        claimed_at: float,
    ) -> None:
        """``claimed_at``: the monotonic time before the claim was sent."""
        lease = context.lease
        super().__init__(name=f"lease-{lease.job_id}", daemon=True)
        self._context, self._settings = context, context.settings
        self._draining = draining
        self._done = threading.Event()
        self._fence = threading.Thread(target=self._watch_the_clock, name="fence", daemon=True)
        self._child: TrainerProcess | None = None
        self._renewed_at = claimed_at
        self.log = log.bind(job_id=lease.job_id, attempt=lease.attempt)
        self.is_lost = False
        self.interrupt = threading.Event()
        self.desired = DesiredState.RUN

    def watch(self, child: TrainerProcess | None) -> None:
        """The trainer to keep alive from now on."""
        self._child = child
        if child is not None and self.is_lost:
            child.kill()

    @property
    def is_draining(self) -> bool:
        """This worker was asked to go."""
        return self._draining.is_set()

    def run(self) -> None:
        """Until ``stop``; a lost lease ends it."""
        self._fence.start()
        next_beat = 0.0
        while not self._done.wait(self._settings.intent_seconds) and not self.is_lost:
            sent_at = time.monotonic()
            try:
                if sent_at >= next_beat:
                    self.desired = worker_api.heartbeat(self._context)
                    next_beat = sent_at + self._settings.heartbeat_seconds
                    self._renewed_at = sent_at
                    if child := self._child:
                        child.keep_alive()
                elif (desired := worker_api.read_desired_state(self._context)) is not None:
                    self.desired = desired
            except LeaseLostError:
                if not self._done.is_set():  # else it was handed back a moment ago
                    self._lose("lease_lost")
                return
            except SQLAlchemyError as error:
                self.log.warning("heartbeat_failed", error=str(error))
            if self.desired != DesiredState.RUN or self.is_draining:
                self.interrupt.set()

    def stop(self) -> None:
        """No more heartbeats."""
        self._done.set()
        # A heartbeat that hangs in a frozen database may stay behind: it is fenced.
        self.join(timeout=5)

    def _watch_the_clock(self) -> None:
        limit = self._settings.self_fence_seconds
        while not self._done.wait(self._settings.intent_seconds / 2):
            if time.monotonic() - self._renewed_at > limit:
                self._lose("self_fenced")
                return

    def _lose(self, why: str) -> None:
        self.is_lost = True
        self.interrupt.set()
        if child := self._child:
            child.kill()
        self.log.warning(why)  # last: who reads the log may be frozen


def retry_until_database_up(lease_renewer: LeaseRenewer, call: Callable[[], T]) -> T:
    """Return the result of ``call``; repeat it while the database is away and the lease holds.

    Raises:
        LeaseLostError: the database was away for too long, or the lease was lost.
    """
    delays = exponential_delays(base=0.2, maximum=5.0)
    while True:
        try:
            return call()
        except DATABASE_AWAY as error:
            if lease_renewer.is_lost:
                raise LeaseLostError(str(error)) from error
            lease_renewer.log.warning("database_away", error=str(error))
            time.sleep(next(delays))
