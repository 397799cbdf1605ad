"""One computation for all requests that ask for its result at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SharedResult(Generic[Result]):
    """The result of a blocking function, which runs in a separate thread.

    Clients without a key may send any number of requests for it. They share a running call, and a
    result that is at most ``max_age_seconds`` old.
    """

    def __init__(self, function: Callable[[], Result], max_age_seconds: float = 0.0) -> None:
        self._function = function
        self._max_age_seconds = max_age_seconds
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shared-result")
        self._task: asyncio.Task[Result] | None = None
        self._started_at = -max_age_seconds

    async def get(self) -> Result:
        """Return the result; raise what the function raises."""
        now = time.monotonic()
        is_old = now - self._started_at >= self._max_age_seconds
        if self._task is None or (self._task.done() and is_old):
            self._started_at = now
            self._task = asyncio.create_task(self._call())
        return await asyncio.shield(self._task)

    async def _call(self) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._function)

    def close(self) -> None:
        """Let the thread end after its current call."""
        self._executor.shutdown(wait=False)
