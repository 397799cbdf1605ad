"""Gives the asynchronous client a synchronous interface, so that one test can use both clients."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any


class Loop:
    """An event loop that runs in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, awaitable: Any) -> Any:
        """Run an awaitable and return its result."""

        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def stop(self) -> None:
        """Stop the thread."""
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Driven:
    """A synchronous interface of an object of the asynchronous client."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        self._inner, self._loop = inner, loop

    def __getattr__(self, name: str) -> Any:
        return self._shown(getattr(self._inner, name))

    def __iter__(self) -> Iterator[Any]:
        iterator = aiter(self._inner)
        try:
            while True:
                yield self._shown(self._loop.run(anext(iterator)))
        except StopAsyncIteration:
            return
        finally:
            if hasattr(iterator, "aclose"):
                self._loop.run(iterator.aclose())

    def __repr__(self) -> str:
        return repr(self._inner)

    def _shown(self, value: Any) -> Any:
        """Await coroutines, wrap objects of the client, and return other values unchanged."""
        if inspect.isawaitable(value):
            return self._shown(self._loop.run(value))
        if inspect.ismethod(value):
            return lambda *given, **named: self._shown(value(*given, **named))
        is_ours = type(value).__module__.startswith("plaudit._async")
        if is_ours or hasattr(value, "__aiter__"):
            return Driven(value, self._loop)
        return value
