"""Whether the service has what it needs: its database, its broker and free space."""

from __future__ import annotations

from collections.abc import Callable

import redis
import structlog
from pydantic import BaseModel
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.core.broker import Tickets
from app.core.settings import Settings
from app.job_queue.queries import live_workers
from app.storage.free_space import StorageFullError, check_free_space

log = structlog.get_logger()


class Readiness(BaseModel):
    """Whether database and broker respond. `workers` is informational."""

    status: str
    checks: dict[str, str]
    workers: int


def check_readiness(engine: Engine, settings: Settings, tickets: Tickets) -> Readiness:
    """Check database, storage and broker; `status` is `ok`, `degraded` (disk full) or `away`."""
    workers = 0

    def check_database() -> None:
        nonlocal workers
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM jobs LIMIT 1")).all()
            # A worker has one row per queue; count its row for the training queue.
            rows = live_workers(connection)
            workers = sum(row.queue == settings.queue for row in rows)

    checks = {
        "database": _outcome(check_database),
        "storage": _outcome(lambda: check_free_space(engine, 0)),
        "broker": _outcome(tickets.check),
    }
    # A full disk must not take the service out of a load balancer, because users must delete data.
    is_away = "away" in checks.values()
    status = "away" if is_away else "degraded" if checks["storage"] == "full" else "ok"
    return Readiness(status=status, checks=checks, workers=workers)


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except StorageFullError:
        log.error("not_ready", error="storage_full")
        return "full"
    except (SQLAlchemyError, redis.RedisError, OSError) as error:
        log.warning("not_ready", error=type(error).__name__)
        return "away"
    return "ok"
