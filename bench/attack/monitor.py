"""Watch a service from outside: latency of /healthz, memory, descriptors and threads."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field

import psutil

INTERVAL_SECONDS = 0.02
#: Seconds above which a response counts as a stall, even on a busy machine.
STALL_SECONDS = 1.0


@dataclass(frozen=True)
class Usage:
    """Resources that the service holds."""

    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Read the usage of processes from the kernel."""
        process = psutil.Process(pid)
        with process.oneshot():
            return cls(process.memory_info().rss, process.num_fds(), process.num_threads())


@dataclass
class Monitor:
    """Requests /healthz continuously on separate connections; a context manager."""

    port: int
    pid: int
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    peak: Usage = field(default_factory=lambda: Usage(0, 0, 0))

    def __enter__(self) -> Monitor:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def p99(self) -> float:
        """Return the 99th percentile of the latency, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else float("inf")

    @property
    def worst(self) -> float:
        """Return the largest latency, in seconds."""
        return max(self.latencies, default=float("inf"))

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._done.wait(INTERVAL_SECONDS):
            started = time.monotonic()
            try:
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(f"/healthz answered {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"/healthz: {error!r}")
                connection.close()
            self.latencies.append(time.monotonic() - started)
            usage = Usage.of(self.pid)
            self.peak = Usage(
                max(self.peak.rss_bytes, usage.rss_bytes),
                max(self.peak.descriptors, usage.descriptors),
                max(self.peak.threads, usage.threads),
            )
        connection.close()
