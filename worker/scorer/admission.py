"""Load the adapters that new work needs while other work is scored."""

from __future__ import annotations

import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from worker.scorer.adapter_pool import AdapterPool, FetchedAdapter, LoadingAdapter
from worker.scorer.errors import ScoreRefusedError
from worker.scorer.pending import Pending, Submitted

log = structlog.get_logger()

#: Maximum number of adapters that are fetched concurrently.
FETCHERS = 2


@dataclass(frozen=True)
class Arrival:
    """An adapter that is one step further: fetched, or loaded; ``error`` says why it is not."""

    adapter_id: str
    adapter: FetchedAdapter | LoadingAdapter | None
    error: Exception | None = None


class Admission:
    """For the engine's thread. Other threads fetch and load, and report in the engine's inbox."""

    def __init__(
        self, pool: AdapterPool, inbox: queue.SimpleQueue[Submitted | Arrival]
    ) -> None:  # fmt: skip
        self._pool, self._inbox = pool, inbox
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        #: Adapters that were fetched and wait for the loader, and whether it has one.
        self._fetched: deque[tuple[str, FetchedAdapter]] = deque()
        self._is_loading = False
        #: Work that waits for an adapter, by the adapter.
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
        """Take an adapter further; return the work that can be scored now."""
        found: list[Pending] = []
        if isinstance(arrival.adapter, FetchedAdapter):
            self._fetched.append((arrival.adapter_id, arrival.adapter))
        else:
            found = self._end_loading(arrival)
        self._load_next()
        return found

    def _end_loading(self, arrival: Arrival) -> list[Pending]:
        """Put a loaded adapter into use, or refuse the work that waits for it."""
        waiting = self._cold.pop(arrival.adapter_id)
        self.waiting -= len(waiting)
        try:
            self._take(arrival)
        except Exception as error:  # noqa: BLE001 - logged unless it is a refusal
            for submitted in waiting:
                self._refuse(submitted, error)
            return []
        admitted = [self.admit(submitted) for submitted in waiting]
        return [pending for pending in admitted if pending is not None]

    def _take(self, arrival: Arrival) -> None:
        loading = arrival.adapter
        if isinstance(loading, LoadingAdapter):
            self._is_loading = False
            if arrival.error is None:
                self._pool.add(loading)
                return
            self._pool.give_up(loading)
        assert arrival.error is not None
        raise arrival.error

    def _load_next(self) -> None:
        """Have the next adapter loaded. The pool loads one at a time, and none while one is added.

        The next one is not begun before the last one is in use.
        """
        while self._fetched and not self._is_loading:
            adapter_id, fetched = self._fetched.popleft()
            try:
                loading = self._pool.reserve(fetched)
            except Exception as error:  # noqa: BLE001 - it belongs to the work that waits
                self._inbox.put(Arrival(adapter_id, None, error))
            else:
                self._is_loading = True
                self._loader.submit(self._load, adapter_id, loading)

    def _fetch(self, adapter_id: str) -> None:
        """Start to fetch an adapter, unless it is in memory or being fetched."""
        if adapter_id not in self._cold and self._pool.find(adapter_id) is None:
            self._cold[adapter_id] = []
            self._fetchers.submit(self._run_fetch, adapter_id)

    def _run_fetch(self, adapter_id: str) -> None:
        try:
            arrival = Arrival(adapter_id, self._pool.fetch(adapter_id))
        except Exception as error:  # noqa: BLE001 - it belongs to the work that waits
            arrival = Arrival(adapter_id, None, error)
        self._inbox.put(arrival)

    def _load(self, adapter_id: str, loading: LoadingAdapter) -> None:
        error: Exception | None = None
        try:
            self._pool.load(loading)
        except Exception as problem:  # noqa: BLE001 - it belongs to the work that waits
            error = problem
        self._inbox.put(Arrival(adapter_id, loading, error))

    def _refuse(self, submitted: Submitted, error: Exception) -> None:
        if not isinstance(error, ScoreRefusedError):
            log.error("work_not_prepared", adapters=submitted.work.adapters, exc_info=error)
        submitted.release()
        submitted.answer.set_exception(error)
