"""The task that all waiting requests share survives an error of one of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine

from app.job_queue import watcher
from app.job_queue.watcher import Watcher


def test_error_of_one_request_does_not_end_the_waits_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watcher, "TICK_SECONDS", 0.01)
    version = 0

    def states(_watcher: Watcher, job_ids: list[str]) -> dict[str, Any]:
        nonlocal version
        version += 1
        return {job_id: SimpleNamespace(version=version) for job_id in job_ids}

    monkeypatch.setattr(Watcher, "_states", states)

    def is_third(state: Any) -> bool:
        if state.version == 1:
            raise ValueError("a bad row")
        return bool(state.version >= 3)

    async def wait() -> bool:
        shared = Watcher(create_engine("sqlite://"))
        try:
            return await shared.wait("job_a", is_third, 5)
        finally:
            await shared.close()

    assert asyncio.run(wait())
