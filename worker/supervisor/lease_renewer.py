"""Renews the lease of a running job and reads the job's desired state."""

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

#: Errors while the database is unavailable or full. Calls are repeated until it recovers.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
T = TypeVar("T")


class LeaseRenewer(threading.Thread):
    """Renews the lease with every heartbeat and reads the desired state in between.

    ``interrupt`` is set when the attempt should end: the lease is lost, the owner requested it, or
    the worker drains. If the lease could not be renewed for ``self_fence_seconds``, the trainer is
    killed, well before another worker may take the job. A second thread does that, because a
    heartbeat may hang in a frozen database.
    """

    def __init__(
        self,
        context: WriteContext,
        draining: threading.Event,
        claimed_at: float,
    ) -> None:
        """``claimed_at`` is the monotonic time before the claim was sent."""
        lease = context.lease
        super().__init__(name=f"lease-{lease.job_id}", daemon=True)
        self._context, self._settings = context, context.settings
        self._draining = draining
        self._done = threading.Event()
        self._fence = threading.Thread(target=self._enforce_self_fence, name="fence", daemon=True)
        self._child: TrainerProcess | None = None
        self._renewed_at = claimed_at
        self.log = log.bind(job_id=lease.job_id, attempt=lease.attempt)
        self.is_lost = False
        self.interrupt = threading.Event()
        self.desired = DesiredState.RUN

    def watch(self, child: TrainerProcess | None) -> None:
        """Set the trainer that gets a keep-alive with every heartbeat."""
        self._child = child
        if child is not None and self.is_lost:
            child.kill()

    @property
    def is_draining(self) -> bool:
        """Whether the worker is shutting down."""
        return self._draining.is_set()

    def run(self) -> None:
        """Run until ``stop`` or until the lease is lost."""
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
                if not self._done.is_set():  # else the attempt has just ended
                    self._lose("lease_lost")
                return
            except SQLAlchemyError as error:
                self.log.warning("heartbeat_failed", error=str(error))
            except Exception:
                # Without heartbeats the trainer would be killed, although its lease is valid.
                self.log.exception("heartbeat_failed")
            if self.desired != DesiredState.RUN or self.is_draining:
                self.interrupt.set()

    def stop(self) -> None:
        """Stop the heartbeats."""
        self._done.set()
        # A heartbeat in a frozen database may hang longer than this; its write will be rejected.
        self.join(timeout=5)

    def _enforce_self_fence(self) -> None:
        limit = self._settings.self_fence_seconds
        while not self._done.wait(self._settings.intent_seconds / 2):
            if time.monotonic() - self._renewed_at > limit:
                self._lose("self_fenced")
                return

    def _lose(self, event: str) -> None:
        self.is_lost = True
        self.interrupt.set()
        if child := self._child:
            child.kill()
        self.log.warning(event)  # last, because a log without a reader may block


def retry_until_database_up(lease_renewer: LeaseRenewer, call: Callable[[], T]) -> T:
    """Return the result of ``call``; repeat it while the database is unavailable and the lease
    valid.

    Raises:
        LeaseLostError: the database was unavailable for too long, or the lease was lost.
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
