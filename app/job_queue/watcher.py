"""Wakes requests that wait for a job to change.

One watcher per process polls the database for all waiting requests. They hold neither a connection
nor a thread, and their number does not change the number of queries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog
from anyio import CapacityLimiter, to_thread
from sqlalchemy import Engine

from app.core.database import reader
from app.job_queue import queries
from app.job_queue.queries import State

log = structlog.get_logger()

#: Seconds between two queries.
TICK_SECONDS = 0.25
_IDS_PER_QUERY = 500


class _Waiter(NamedTuple):
    is_done: Callable[[State], bool]
    result: asyncio.Future[bool]


class Watcher:
    """Belongs to one event loop; polls only while requests wait."""

    def __init__(self, engine: Engine) -> None:
        self.is_closed = False
        self._engine = reader(engine)
        self._waiting: dict[str, set[_Waiter]] = {}
        self._task: asyncio.Task[None] | None = None
        self._query: asyncio.Task[dict[str, State]] | None = None
        # A separate thread: busy request threads must not delay the watcher.
        self._limiter = CapacityLimiter(1)

    async def wait(
        self, job_id: str, is_done: Callable[[State], bool], timeout_seconds: float
    ) -> bool:
        """Wait until ``is_done`` holds for the job or the job was deleted, and return True.

        Return False after ``timeout_seconds`` or when the service shuts down.
        """
        if self.is_closed or timeout_seconds <= 0:
            return False
        waiter = _Waiter(is_done, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(job_id, set()).add(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="watcher")
        try:
            return await asyncio.wait_for(waiter.result, timeout_seconds)
        except TimeoutError:
            return False
        finally:
            waiters = self._waiting[job_id]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[job_id]

    async def close(self) -> None:
        """End all waits; later requests do not wait. Returns when no query runs any more: the pool
        of the engine cannot close a connection that is in use."""
        self.is_closed = True
        if self._task is not None:
            self._task.cancel()
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.result.done():
                    waiter.result.set_result(False)
        if self._query is not None and not self._query.done():
            await asyncio.gather(self._query, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            for ids in _batches(list(self._waiting)):
                try:
                    query = to_thread.run_sync(self._states, ids, limiter=self._limiter)
                    self._query = asyncio.create_task(query, name="watcher-query")
                    found = await asyncio.shield(self._query)  # close() waits for it
                    for job_id in ids:
                        self._notify(job_id, found.get(job_id))
                except Exception:  # the requests of the other jobs wait for this task, too
                    log.warning("watcher_could_not_read", exc_info=True)
            await asyncio.sleep(TICK_SECONDS)

    def _notify(self, job_id: str, state: State | None) -> None:
        for waiter in self._waiting.get(job_id, ()):
            if not waiter.result.done() and (state is None or waiter.is_done(state)):
                waiter.result.set_result(True)

    def _states(self, job_ids: list[str]) -> dict[str, State]:
        with self._engine.connect() as connection:
            return queries.states(connection, job_ids)


def _batches(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + _IDS_PER_QUERY] for i in range(0, len(ids), _IDS_PER_QUERY)]
