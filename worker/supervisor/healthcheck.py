"""Container health check: ``python -m worker.supervisor.healthcheck``.

Exit status 0 while the database has a recent heartbeat of this host's worker. The heartbeat is
checked, not the process, because a process can be alive and do nothing.
"""

from __future__ import annotations

import socket
import sys

from sqlalchemy import Engine, exists, select

from app.core.database import make_engine
from app.core.settings import Settings
from app.job_queue import workers
from app.models import Worker


def is_alive(engine: Engine, host: str) -> bool:
    """Return whether a worker of this host was seen lately."""
    with engine.connect() as connection:
        return bool(
            connection.scalar(select(exists().where(Worker.host == host, workers.is_alive())))
        )


if __name__ == "__main__":
    settings = Settings()
    engine = make_engine(settings.database, pool_size=1)
    sys.exit(not is_alive(engine, socket.gethostname()))
