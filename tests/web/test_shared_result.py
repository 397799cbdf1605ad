"""One computation for all requests that ask for it at the same time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.web.shared_result import SharedResult

CLIENTS = 50


def test_requests_at_the_same_time_share_one_call() -> None:
    calls: list[int] = []
    may_end = threading.Event()

    def compute() -> int:
        calls.append(threading.get_ident())
        may_end.wait(10)
        return len(calls)

    async def ask() -> tuple[list[int], int]:
        shared = SharedResult(compute)
        waiting = [asyncio.create_task(shared.get()) for _ in range(CLIENTS)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # one that leaves takes the result from nobody
        may_end.set()
        first = await asyncio.gather(*waiting[1:])
        second = await shared.get()
        shared.close()
        return first, second

    first, second = asyncio.run(ask())
    assert (first, second) == ([1] * (CLIENTS - 1), 2)
    assert threading.get_ident() not in calls


@pytest.mark.parametrize(("max_age_seconds", "calls"), [(0.0, 2), (3600.0, 1)])
def test_result_is_kept_for_its_age(max_age_seconds: float, calls: int) -> None:
    done: list[None] = []

    async def ask_twice() -> None:
        shared = SharedResult(lambda: done.append(None), max_age_seconds)
        await shared.get()
        await shared.get()
        shared.close()

    asyncio.run(ask_twice())
    assert len(done) == calls


def test_failure_reaches_every_request_and_is_not_kept() -> None:
    results = iter([None, "ok"])

    def compute() -> str:
        result = next(results)
        if result is None:
            raise OSError("the disk is away")
        return result

    async def ask() -> str:
        shared = SharedResult(compute)
        failures = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["the disk is away"] * 2
        result = await shared.get()
        shared.close()
        return result

    assert asyncio.run(ask()) == "ok"
