"""A circuit breaker for each URL that webhook messages are sent to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Consecutive attempts without a response that open the circuit of a URL.
MAX_SILENT = 3
#: Seconds until the next attempt at a URL with an open circuit; doubles with each silent one.
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 15.0, 600.0
#: Maximum number of URLs to remember; the oldest is forgotten first.
MAX_URLS = 10_000


@dataclass
class _Circuit:
    silent: int = 0
    next_at: float = 0.0


class Circuits:
    """The circuit breakers of one process, by URL. They are kept in memory only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def is_open(self, url: str) -> bool:
        """Return whether no message should be sent to this URL now."""
        circuit = self._circuits.get(url)
        return circuit is not None and self._clock() < circuit.next_at

    def is_suspect(self, url: str) -> bool:
        """Return whether the last attempt got no response: send only one message at a time."""
        return url in self._circuits

    def record(self, url: str, *, has_responded: bool) -> None:
        """Record the outcome of an attempt; open the circuit after ``MAX_SILENT`` failures."""
        if has_responded:
            self._circuits.pop(url, None)
            return
        circuit = self._circuits.pop(url, None) or _Circuit()
        self._circuits[url] = circuit
        circuit.silent += 1
        if circuit.silent >= MAX_SILENT:
            doublings = min(circuit.silent - MAX_SILENT, 10)
            circuit.next_at = self._clock() + min(PAUSE_SECONDS * 2**doublings, MAX_PAUSE_SECONDS)
        if len(self._circuits) > MAX_URLS:
            del self._circuits[next(iter(self._circuits))]
