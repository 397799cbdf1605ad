"""Counts scored tokens in memory and stores them every few seconds.

Writing a row for every request would take longer than the request. If the process is killed, the
tokens of the last ten seconds are lost.
"""

from __future__ import annotations

import threading
from collections import Counter

import structlog
from sqlalchemy import Engine

from app.core.database import transaction
from app.usage import service

log = structlog.get_logger()

STORE_SECONDS = 10.0


class TokenMeter:
    """Counts the scored tokens of one process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guard = threading.Lock()
        self._tokens: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="token-meter", daemon=True)

    def start(self) -> None:
        """Start the thread that stores the counts every ``STORE_SECONDS``."""
        self._thread.start()

    def stop(self) -> None:
        """Store the remaining counts and stop the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def add(self, tenant_id: str, tokens: int) -> None:
        """Count tokens that were scored for a tenant."""
        with self._guard:
            self._tokens[tenant_id] += tokens

    def _run(self) -> None:
        while not self._stopping.wait(STORE_SECONDS):
            self._store()
        self._store()

    def _store(self) -> None:
        with self._guard:
            counted, self._tokens = self._tokens, Counter()
        try:
            with transaction(self._engine) as session:
                for tenant_id in sorted(counted):  # a fixed order prevents deadlocks
                    service.add(session, tenant_id, scored_tokens=counted[tenant_id])
        except Exception:
            log.warning("usage_not_stored", exc_info=True)
            with self._guard:
                self._tokens += counted
