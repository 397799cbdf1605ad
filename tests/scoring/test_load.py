"""Many requests at once, and a scorer that is killed while they wait."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.scoring.stage import Stage

ONE = {"query": ["please tell me about tea ?"]}


async def send_all(stage: Stage, count: int, at_once: int) -> list[httpx.Response]:
    """Send requests of one text each, as an RL trainer does."""
    limits = httpx.Limits(max_connections=at_once)
    headers = {"Authorization": f"Bearer {stage.key}"}
    async with httpx.AsyncClient(
        base_url=stage.client.base_url, limits=limits, headers=headers, timeout=300
    ) as client:
        requests = [client.post("/get_reward", json=ONE) for _ in range(count)]
        return list(await asyncio.gather(*requests))


def scorer_processes() -> list[int]:
    """Process ids of the scorers of this user whose parent is an API of these tests."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"worker.scorer" in words:
            found.append(int(path.parent.name))
    return found


def test_a_thousand_requests_at_once_all_get_their_score(stage: Stage) -> None:
    [expected] = asyncio.run(send_all(stage, 1, 1))
    answers = asyncio.run(send_all(stage, 1000, 1000))
    assert {answer.status_code for answer in answers} == {200}
    rewards = [answer.json()["rewards"][0] for answer in answers]
    assert rewards == pytest.approx(expected.json()["rewards"] * 1000, abs=1e-5)


def test_killed_scorer_loses_no_request_and_changes_no_score(stage: Stage) -> None:
    [expected] = asyncio.run(send_all(stage, 1, 1))
    before = own_scorers(stage)
    assert before

    async def kill_during_load() -> list[httpx.Response]:
        load = asyncio.create_task(send_all(stage, 200, 64))
        await asyncio.sleep(0.2)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        return await load

    answers = asyncio.run(kill_during_load())
    assert {answer.status_code for answer in answers} == {200}
    rewards = [answer.json()["rewards"][0] for answer in answers]
    assert rewards == pytest.approx(expected.json()["rewards"] * 200, abs=1e-5)
    assert set(own_scorers(stage)).isdisjoint(before)


def own_scorers(stage: Stage) -> list[int]:
    """The scorers that the service of this stage has started: they share its data directory."""
    data = f"PLAUDIT_DATA_DIR={stage.settings.data_dir.absolute()}".encode()
    found = []
    for pid in scorer_processes():
        with suppress(OSError):  # it has ended meanwhile
            if data in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found
