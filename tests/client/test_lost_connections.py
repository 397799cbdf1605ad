"""Connections that are reset as soon as they are made are errors of the client."""

from __future__ import annotations

import asyncio

import uvloop

from plaudit import AsyncPlaudit
from plaudit.errors import ConnectionFailedError
from plaudit.retries import Retries
from tests.resetting import resetting_server

ROUNDS = 12
AT_ONCE = 128


def test_reset_connection_is_a_failed_one() -> None:
    with resetting_server() as port:
        uvloop.run(fail(f"http://127.0.0.1:{port}"))  # an event loop of many servers


async def fail(url: str) -> None:
    async with AsyncPlaudit(url, "plk_test", retries=Retries(attempts=1)) as client:
        for _ in range(ROUNDS):
            calls = (client.jobs.get(f"job_{'0' * 32}") for _ in range(AT_ONCE))
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in found} == {ConnectionFailedError}
