"""``python -m worker.alive``: exit status 0 while this machine's worker is heard of.

A container's health check. The worker's own beat is looked at, because a process can be there and
do nothing.
"""

from __future__ import annotations

import socket
import sys

from sqlalchemy import Engine, exists, select

from app.database import make_engine, now_ms
from app.models import Worker
from app.settings import Settings

BEATS = 6


def is_alive(engine: Engine, host: str, heartbeat_seconds: float) -> bool:
    """Whether a worker of this host was heard within the last six heartbeats."""
    since = now_ms() - int(BEATS * heartbeat_seconds * 1000)
    with engine.connect() as connection:
        return bool(
            connection.scalar(select(exists().where(Worker.host == host, Worker.seen_at >= since)))
        )


if __name__ == "__main__":
    settings = Settings()
    engine = make_engine(settings.database, pool_size=1)
    sys.exit(not is_alive(engine, socket.gethostname(), settings.heartbeat_seconds))
