"""What the rows of the workers table mean."""

from __future__ import annotations

from enum import StrEnum

#: Milliseconds after which a worker that did not update its rows is treated as gone. Workers update
#: them every 5 s.
WORKER_GONE_MS = 30_000


class WorkerState(StrEnum):
    """Whether a worker claims jobs."""

    READY = "ready"
    DRAINING = "draining"  # is shutting down
    UNHEALTHY = "unhealthy"  # broke several jobs in a row and tests its machine
