"""Load the adapters that new work needs while other work is scored."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from worker.scorer.adapter_pool import AdapterPool, FetchedAdapter
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.pending import Pending, Submitted

log = structlog.get_logger()

#: Maximum number of adapters that are fetched concurrently.
FETCHERS = 2


@dataclass(frozen=True)
class Arrival:
    """The result of fetching an adapter."""

    adapter_id: str
    result: FetchedAdapter | Exception


class Admission:
    """Used in the engine's thread only. Other threads fetch files and report to its inbox."""

    def __init__(
        self, pool: AdapterPool, inbox: queue.SimpleQueue[Submitted | Arrival]
    ) -> None:  # fmt: skip
        self._pool, self._inbox = pool, inbox
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        #: Work that waits for an adapter to be fetched, by the adapter.
        self._cold: dict[str, list[Submitted]] = {}
        #: Number of waiting requests; other threads read it.
        self.waiting = 0

    def admit(self, submitted: Submitted) -> Pending | None:
        """Return work whose adapters are all in memory; None while it waits for one of them.

        Adapters in memory are pinned, so that the members of an ensemble cannot evict each other.
        If the work is rejected, its error is sent and None is returned.
        """
        wanted = submitted.work.adapters[len(submitted.adapters) :]
        for adapter_id in wanted:
            adapter = self._pool.find(adapter_id)
            if adapter is None:
                for each in wanted:
                    self._fetch(each)
                self._cold[adapter_id].append(submitted)
                self.waiting += 1
                return None
            adapter.pins += 1
            submitted.adapters.append(adapter)
        try:
            return Pending(submitted)
        except Exception as error:  # noqa: BLE001 - logged unless it is a refusal
            self._refuse(submitted, error)
            return None

    def arrive(self, arrival: Arrival) -> list[Pending]:
        """Load an adapter that was fetched; return the work that can be scored now."""
        waiting = self._cold.pop(arrival.adapter_id)
        self.waiting -= len(waiting)
        try:
            if isinstance(arrival.result, Exception):
                raise arrival.result
            self._pool.add(arrival.result)
        except Exception as error:  # noqa: BLE001 - logged unless it is a refusal
            for submitted in waiting:
                self._refuse(submitted, error)
            return []
        admitted = [self.admit(submitted) for submitted in waiting]
        return [pending for pending in admitted if pending is not None]

    def _fetch(self, adapter_id: str) -> None:
        """Start to fetch an adapter, unless it is in memory or being fetched."""
        if adapter_id not in self._cold and self._pool.find(adapter_id) is None:
            self._cold[adapter_id] = []
            self._fetchers.submit(self._run, adapter_id)

    def _run(self, adapter_id: str) -> None:
        try:
            result: FetchedAdapter | Exception = self._pool.fetch(adapter_id)
        except Exception as error:  # noqa: BLE001 - it belongs to the work that waits
            result = error
        self._inbox.put(Arrival(adapter_id, result))

    def _refuse(self, submitted: Submitted, error: Exception) -> None:
        if not isinstance(error, ScoreRefusedError):
            log.error("work_not_prepared", adapters=submitted.work.adapters, exc_info=error)
        submitted.release()
        submitted.answer.set_exception(error)
