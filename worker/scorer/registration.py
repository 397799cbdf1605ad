"""The row that tells the API where this scorer listens and that it is alive."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Engine, delete
from sqlalchemy.exc import SQLAlchemyError

from app.core.database import now_ms, transaction
from app.core.upsert import upsert
from app.models import Scorer

log = structlog.get_logger()

SEEN_SECONDS = 2.0
PACKAGES = ("plaudit", "torch", "transformers", "peft")


class ScorerRegistration:
    """Writes the row every ``SEEN_SECONDS`` in a separate thread."""

    def __init__(
        self, engine: Engine, row: dict[str, Any], resident: Callable[[], dict[str, Any]]
    ) -> None:
        self._engine, self._resident = engine, resident
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        self._row = row | {"versions": versions, "state": "ready"}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="registration", daemon=True)

    def start(self) -> None:
        """Start to write the row."""
        self._thread.start()

    def remove(self) -> None:
        """Delete the row; if the database is unavailable, the row expires."""
        self._closing.set()
        self._thread.join(timeout=10)
        try:
            with transaction(self._engine) as session:
                session.execute(delete(Scorer).where(Scorer.id == self._row["id"]))
        except SQLAlchemyError:
            log.warning("scorer_not_signed_off", exc_info=True)

    def _keep(self) -> None:
        while True:
            try:
                row = self._row | {"resident": self._resident(), "seen_at": now_ms()}
                with transaction(self._engine) as session:
                    upsert(session, Scorer, [row], update=("resident", "state", "seen_at", "url"))
            except Exception:  # without this thread, the API would not find the scorer
                log.warning("scorer_registration_not_written", exc_info=True)
            if self._closing.wait(SEEN_SECONDS):
                return
