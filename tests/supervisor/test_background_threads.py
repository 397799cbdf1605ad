"""Threads that nothing restarts go on after an error that nobody expected."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select

from app.core.database import transaction
from app.core.settings import Settings
from app.domain.lifecycle import DesiredState
from app.job_queue import worker_api
from app.job_queue.lease import Lease, WriteContext
from app.models import Scorer
from tests.services import wait_until
from worker.scorer import registration
from worker.scorer.registration import ScorerRegistration
from worker.supervisor.lease_renewer import LeaseRenewer


def fail_once(result: Any) -> tuple[Callable[..., Any], list[object]]:
    """Return a function whose first call fails, and the list of its calls."""
    calls: list[object] = []

    def call(*_: object) -> Any:
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return result

    return call, calls


def test_scorer_stays_registered(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "SEEN_SECONDS", 0.01)
    monkeypatch.setattr(registration, "PACKAGES", ())
    resident, _ = fail_once({"adapters": [], "bases": 0})
    row = {"id": "sc_0", "queue": "jobs", "url": "http://scorer:9000"}
    scorer = ScorerRegistration(engine, row, resident)

    def is_registered() -> bool:
        with transaction(engine) as session:
            return session.scalar(select(Scorer.id)) is not None

    scorer.start()
    try:
        wait_until("the row", is_registered, 10)
    finally:
        scorer.remove()


def test_lease_is_renewed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat, beats = fail_once(DesiredState.RUN)
    monkeypatch.setattr(worker_api, "heartbeat", heartbeat)
    quick = settings.model_copy(update={"intent_seconds": 0.01, "heartbeat_seconds": 0.01})
    context = WriteContext(create_engine("sqlite://"), quick, Lease("job_0", 1, "owner"))
    renewer = LeaseRenewer(context, threading.Event(), claimed_at=float("inf"))
    renewer.start()
    try:
        wait_until("a second heartbeat", lambda: len(beats) > 1, 10)
    finally:
        renewer.stop()
