"""A Redis that resets connections leaves the limits open, and fails no request."""

from __future__ import annotations

import asyncio

import uvloop

from app.auth.redis_windows import RedisWindows
from tests.resetting import busy_loop, resetting_server

ROUNDS = 50
AT_ONCE = 8


def test_reset_connections_leave_the_limits_open() -> None:
    with resetting_server() as port:
        uvloop.run(beat(f"redis://127.0.0.1:{port}/0"))  # the event loop of the service


async def beat(url: str) -> None:
    windows = RedisWindows(url, "test")
    async with busy_loop():
        for _ in range(ROUNDS):
            windows.is_away = False
            await asyncio.gather(*(windows.beat() for _ in range(AT_ONCE)))
            assert windows.is_away
    await windows.stop()
