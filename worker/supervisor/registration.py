"""The rows of this worker in the workers table, which tell the API that the worker is alive."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, delete
from sqlalchemy.exc import SQLAlchemyError

from app.core.database import now_ms, transaction
from app.core.upsert import upsert
from app.job_queue.workers import WorkerState
from app.models import Worker

log = structlog.get_logger()

PACKAGES = ("plaudit", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class WorkerRow:
    """The fixed columns of a row: one row for each queue that the worker serves."""

    id: str
    queue: str
    slots: int


class Registration:
    """Creates, updates and deletes this worker's rows."""

    def __init__(
        self,
        engine: Engine,
        host: str,
        rows: Sequence[WorkerRow],
        devices: Sequence[Mapping[str, str]],
    ) -> None:
        self._engine, self._host = engine, host
        self._rows, self._devices = tuple(rows), [dict(device) for device in devices]
        #: Results of the checks of this machine; None until they have ended.
        self.checks: list[dict[str, str]] | None = None

    def update(self, states: Mapping[str, WorkerState], busy: Mapping[str, int]) -> None:
        """Write the worker's state and the number of busy slots, of each queue."""
        rows = [
            {
                "id": row.id,
                "host": self._host,
                "queue": row.queue,
                "slots": row.slots,
                "devices": self._devices,
                "versions": _versions(),
                "doctor": self.checks,
                "busy": busy[row.queue],
                "state": states[row.queue],
                "seen_at": now_ms(),
            }
            for row in self._rows
        ]
        with transaction(self._engine) as session:
            upsert(session, Worker, rows, update=("busy", "state", "doctor", "seen_at"))

    def remove(self) -> None:
        """Delete the rows; if the database is unavailable, they expire."""
        try:
            with transaction(self._engine) as session:
                session.execute(delete(Worker).where(Worker.id.in_(row.id for row in self._rows)))
        except SQLAlchemyError:
            log.warning("worker_not_signed_off", exc_info=True)


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            log.debug("package_not_installed", package=name)
    return versions
