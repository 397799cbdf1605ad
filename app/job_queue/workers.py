"""When a worker counts as alive."""

from __future__ import annotations

#: A worker that has not been seen for this long is treated as gone. Workers write every 5 s.
WORKER_GONE_MS = 30_000
