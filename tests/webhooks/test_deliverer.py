"""The thread that sends messages goes on after an error that nobody expected."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from app.core.settings import Settings
from app.webhooks.dispatch import Deliverer
from tests.services import wait_until


def test_machine_without_a_thread_does_not_end_deliveries(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[object] = []
    pause = Deliverer._pause

    async def fail_once(deliverer: Deliverer) -> bool:
        pauses.append(None)
        if len(pauses) == 1:
            raise RuntimeError("can't start new thread")
        return await pause(deliverer)

    monkeypatch.setattr(Deliverer, "_pause", fail_once)
    deliverer = Deliverer(engine, settings.model_copy(update={"reconcile_seconds": 0.01}))
    deliverer.start()
    try:
        wait_until("the next rounds", lambda: len(pauses) > 2, 10)
    finally:
        deliverer.stop()
