"""The task that all waiting requests share survives an error of one of them."""

from __future__ import annotations

import asyncio
import threading
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


def test_close_waits_for_the_query_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is in use when its pool is disposed of would stay open."""
    is_reading, may_end, is_read = (threading.Event() for _ in range(3))

    def states(_watcher: Watcher, _job_ids: list[str]) -> dict[str, Any]:
        is_reading.set()
        may_end.wait(60)
        is_read.set()
        return {}

    monkeypatch.setattr(Watcher, "_states", states)

    async def close() -> tuple[bool, bool]:
        shared = Watcher(create_engine("sqlite://"))
        waiting = asyncio.create_task(shared.wait("job_a", lambda _: False, 60))
        await asyncio.to_thread(is_reading.wait, 60)
        closing = asyncio.create_task(shared.close())
        for _ in range(100):
            await asyncio.sleep(0)
        was_early = closing.done()
        may_end.set()
        await closing
        return was_early, is_read.is_set() and not await waiting

    assert asyncio.run(close()) == (False, True)


def test_wait_of_no_time_sends_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[list[str]] = []
    monkeypatch.setattr(Watcher, "_states", lambda _, ids: queries.append(ids) or {})

    async def wait() -> bool:
        shared = Watcher(create_engine("sqlite://"))
        found = await shared.wait("job_a", lambda _: True, 0)
        if shared._task is not None:
            await shared._task
        return found

    assert asyncio.run(wait()) is False
    assert queries == []
