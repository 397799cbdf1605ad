"""Keeps a lease while its job is worked on, and hears what the job's owner wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.domain.lifecycle import Desired
from app.jobs import leases
from app.jobs.repository import Lease, LeaseLost
from app.settings import Settings
from worker.process import TrainerProcess

log = structlog.get_logger()


class LeaseKeeper(threading.Thread):
    """Renews the lease every heartbeat and looks for cancel, pause and drain in between.

    ``interrupt`` is set when the work should end: the lease is lost, or somebody asked for it.
    A supervisor that could not renew for ``self_fence_seconds`` kills its trainer, well before
    another worker may take the job.
    """

    def __init__(
        self, engine: Engine, settings: Settings, lease: Lease, draining: threading.Event
    ) -> None:
        super().__init__(name=f"lease-{lease.job_id}", daemon=True)
        self._engine, self._settings, self._lease = engine, settings, lease
        self._draining = draining
        self._done = threading.Event()
        self._child: TrainerProcess | None = None
        # From before the claim's statement was sent would be exact; this is later by one commit.
        self._renewed_at = time.monotonic()
        self.is_lost = False
        self.interrupt = threading.Event()
        self.desired = Desired.RUN

    def watch(self, child: TrainerProcess | None) -> None:
        """The trainer to keep alive from now on."""
        self._child = child
        if child is not None and self.is_lost:
            child.kill()

    @property
    def is_draining(self) -> bool:
        """This worker was asked to go."""
        return self._draining.is_set()

    def renewed(self) -> None:
        """Another fenced write of this worker went through: as good as a heartbeat."""
        self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Until ``stop``; a lost lease ends it."""
        next_beat = 0.0
        while not self._done.wait(self._settings.intent_seconds):
            sent_at = time.monotonic()
            try:
                if sent_at >= next_beat:
                    self.desired = leases.heartbeat(self._engine, self._settings, self._lease)
                    next_beat = sent_at + self._settings.heartbeat_seconds
                    self._renewed_at = sent_at
                    if child := self._child:
                        child.keep_alive()
                elif (wish := leases.wish(self._engine, self._lease)) is not None:
                    self.desired = wish
            except LeaseLost:
                self._lose("lease_lost")
                return
            except SQLAlchemyError as error:
                log.warning("heartbeat_failed", job_id=self._lease.job_id, error=str(error))
                if time.monotonic() - self._renewed_at > self._settings.self_fence_seconds:
                    self._lose("self_fenced")
                    return
            if self.desired != Desired.RUN or self.is_draining:
                self.interrupt.set()

    def stop(self) -> None:
        """No more heartbeats."""
        self._done.set()
        self.join(timeout=60)

    def _lose(self, why: str) -> None:
        log.warning(why, job_id=self._lease.job_id, attempt=self._lease.attempt)
        self.is_lost = True
        self.interrupt.set()
        if child := self._child:
            child.kill()


def until_written(keeper: LeaseKeeper, settings: Settings, write: Callable[[], object]) -> None:
    """Try a fenced write until the database takes it or the lease can no longer be ours."""
    delay = 0.2
    while True:
        sent_at = time.monotonic()
        try:
            write()
        except SQLAlchemyError as error:
            if keeper.is_lost or sent_at - keeper._renewed_at > settings.self_fence_seconds:
                raise LeaseLost(str(error)) from error
            log.warning("write_retried", error=str(error))
            time.sleep(delay)
            delay = min(delay * 2, 5.0)
        else:
            keeper.renewed()
            return
