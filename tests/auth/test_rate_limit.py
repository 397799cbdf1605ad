"""Limits counted in memory, and limits that several API processes share through a real Redis."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from limits import RateLimitItem, RateLimitItemPerSecond

from app.auth import rate_limit, redis_windows
from app.auth.rate_limit import (
    ConcurrencyLimiter,
    MemoryWindows,
    RateLimiter,
    client_network,
    divide,
    request_window,
)
from app.auth.redis_windows import RedisWindows
from app.core.logging import configure_logging
from tests.services import RedisServer

#: A period so long that no event leaves the window during a test.
LONG_SECONDS = 100_000


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for Redis than a request does, because the machine may be busy."""
    monkeypatch.setattr(redis_windows, "TIMEOUT_SECONDS", 2.0)


@pytest.fixture
def service() -> str:
    """A unique name of the service, so that tests share nothing in Redis."""
    return uuid.uuid4().hex


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that the test may stop."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def logged() -> Iterator[Callable[[], list[str]]]:
    """Return the names of the events logged so far."""
    stream = io.StringIO()
    configure_logging(stream)
    yield lambda: [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    configure_logging()


@asynccontextmanager
async def api_processes(url: str, service: str, count: int) -> AsyncIterator[list[RedisWindows]]:
    """Windows of ``count`` API processes, each of which knows of the others."""
    windows = [RedisWindows(url, service) for _ in range(count)]
    for _ in range(2):  # after the second round the first process has counted the last one
        for process in windows:
            await process.beat()
    try:
        yield windows
    finally:
        for process in windows:
            await process.stop()


async def passed(limiter: RateLimiter, name: str, requests: int) -> int:
    return sum([await limiter.acquire(name) == 0 for _ in range(requests)])


@pytest.mark.parametrize(
    ("per_second", "burst", "amount", "seconds"),
    [
        (20, 60, 60, 3),
        (20, 10, 20, 1),
        (7, 10, 14, 2),
        (0.3, 1, 1, 4),
        (0.29, 29, 29, 100),
        (1e9, 10**9, 10**9, 1),
    ],
)
def test_window_holds_the_burst_at_the_rate(
    per_second: float, burst: int, amount: int, seconds: int
) -> None:
    window = request_window(per_second, burst)
    assert (window.amount, window.get_expiry()) == (amount, seconds)


def test_full_window_regains_room_as_events_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=3000.5, time=lambda: clock.now)
    for module in ("limits.storage.memory.time", "limits.strategies.time"):
        monkeypatch.setattr(module, clock)
    monkeypatch.setattr(rate_limit, "time", clock)
    limiter = RateLimiter(RateLimitItemPerSecond(60, 3))

    async def scenario() -> None:
        assert await passed(limiter, "a", 70) == 60
        assert await limiter.acquire("a") == 2.5  # the window of 3 s began at 3000
        assert await limiter.acquire("b") == 0
        clock.now = 3003.08  # 2.92 of the last 3 s lie in the window before: 58 events
        assert await passed(limiter, "a", 10) == 2
        clock.now = 4000.0
        assert await passed(limiter, "a", 70) == 60

    asyncio.run(scenario())


def test_clock_that_steps_back_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=90_000.5, time=lambda: clock.now)
    monkeypatch.setattr("limits.storage.memory.time", clock)
    windows = MemoryWindows()
    window = RateLimitItemPerSecond(1, 3)
    assert windows.hit(window, "a")
    assert not windows.hit(window, "a")
    clock.now -= 7200
    assert windows.hit(window, "a")


def test_memory_holds_a_bounded_number_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_WINDOWS", 50)
    windows = MemoryWindows()
    window = RateLimitItemPerSecond(1, LONG_SECONDS)
    for number in range(120):
        windows.hit(window, str(number))
    assert 0 < len(windows) <= 50
    assert not windows.hit(window, "119")  # the latest names are still counted


def test_expired_windows_are_dropped_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=90_000.5, time=lambda: clock.now)
    monkeypatch.setattr("limits.storage.memory.time", clock)
    monkeypatch.setattr(rate_limit, "time", clock)
    monkeypatch.setattr(rate_limit, "MIN_SWEPT", 20)
    windows = MemoryWindows()
    threads = threading.active_count()
    window = RateLimitItemPerSecond(10, 3)
    for number in range(200):  # one name: a new window begins every three seconds
        assert windows.hit(window, "a"), number
        assert len(windows) <= 20
        clock.now += 3
    assert threading.active_count() <= threads


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("amount", [1, 2, 10, 60, 1000])
def test_shares_add_up_to_the_limit(amount: int, processes: int) -> None:
    own, shared = (part.amount if part else 0 for part in divide(_long(amount), processes))
    assert own * processes + shared == amount
    assert own + shared >= amount * 3 / 4


@pytest.mark.parametrize(("amount", "processes"), [(60, 1), (60, 2), (60, 4), (10, 3), (1, 2)])
def test_processes_share_one_limit(
    redis_server: str, service: str, amount: int, processes: int
) -> None:
    async def scenario() -> None:
        async with api_processes(redis_server, service, processes) as windows:
            limiters = [RateLimiter(_long(amount), redis) for redis in windows]
            counts = [await passed(limiter, "key", amount) for limiter in limiters]
            assert sum(counts) == amount
            assert await limiters[0].acquire("key") > 0
            assert await limiters[-1].acquire("other key") == 0

    asyncio.run(scenario())


def test_client_of_one_process_gets_most_of_the_limit(redis_server: str, service: str) -> None:
    async def scenario() -> None:
        async with api_processes(redis_server, service, 4) as windows:
            assert await passed(RateLimiter(_long(60), windows[0]), "key", 100) == 48 + 3

    asyncio.run(scenario())


def test_requests_within_the_own_share_do_not_ask_redis(
    own_redis: RedisServer, service: str
) -> None:
    async def scenario() -> None:
        async with api_processes(own_redis.url, service, 2) as (windows, _):
            own_redis.stop()
            assert await passed(RateLimiter(_long(800), windows), "key", 100) == 100
            assert not windows.is_away

    asyncio.run(scenario())


def test_process_that_stops_gives_its_share_to_the_others(redis_server: str, service: str) -> None:
    async def scenario() -> None:
        async with api_processes(redis_server, service, 2) as (first, second):
            assert (first.processes, second.processes) == (2, 2)
            await second.stop()
            await first.beat()
            assert first.processes == 1

    asyncio.run(scenario())


def test_process_that_was_killed_is_counted_until_its_time_is_up(
    redis_server: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with api_processes(redis_server, service, 2) as (first, _):
            monkeypatch.setattr(redis_windows, "PROCESS_GONE_SECONDS", 0)
            await asyncio.sleep(1.1)  # Redis' clock is read in whole seconds
            await first.beat()
            assert first.processes <= 1

    asyncio.run(scenario())


def _kill(server: RedisServer) -> None:
    server.stop()


def _freeze(server: RedisServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


def _thaw(server: RedisServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)


def _fill(server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")


def _empty(server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize(
    ("break_redis", "repair"),
    [(_kill, RedisServer.start), (_freeze, _thaw), (_fill, _empty)],
    ids=["killed", "frozen", "full"],
)
def test_requests_pass_while_redis_is_away(
    own_redis: RedisServer,
    service: str,
    logged: Callable[[], list[str]],
    break_redis: Callable[[RedisServer], None],
    repair: Callable[[RedisServer], None],
) -> None:
    async def scenario() -> None:
        async with api_processes(own_redis.url, service, 2) as (windows, _):
            limiter = RateLimiter(_long(8), windows)
            assert await passed(limiter, "key", 20) < 20
            break_redis(own_redis)
            waits = await asyncio.gather(*(limiter.acquire("new key") for _ in range(50)))
            assert set(waits) == {0}
            await windows.beat()
            assert await passed(limiter, "key", 20) == 20
            assert logged() == ["rate_limits_open"]
            repair(own_redis)
            while windows.is_away:
                await windows.beat()
            assert await passed(limiter, "key", 20) < 20
            assert logged() == ["rate_limits_open", "rate_limits_enforced_again"]

    asyncio.run(scenario())


def test_frozen_redis_does_not_block_the_event_loop(own_redis: RedisServer, service: str) -> None:
    async def scenario() -> int:
        ticks = 0
        async with api_processes(own_redis.url, service, 2) as (windows, _):
            _freeze(own_redis)
            waiting = asyncio.create_task(RateLimiter(_long(1), windows).acquire("key"))
            while not waiting.done():
                await asyncio.sleep(0.01)
                ticks += 1
            _thaw(own_redis)
        return ticks

    assert asyncio.run(scenario()) > 1


def test_open_responses_are_counted_per_name() -> None:
    limiter = ConcurrencyLimiter(1)
    assert limiter.enter("a")
    assert limiter.is_full("a")
    assert not limiter.enter("a")
    assert limiter.enter("b")
    limiter.leave("a")
    assert limiter.enter("a")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_ipv6_hosts_of_a_64_count_together(address: str | None, network: str) -> None:
    assert client_network(address) == network


def _long(amount: int) -> RateLimitItem:
    return RateLimitItemPerSecond(amount, LONG_SECONDS)
