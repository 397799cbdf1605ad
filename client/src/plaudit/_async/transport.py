"""Sends calls, again where that is safe, and turns refusals into errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from plaudit._async.concurrency import AsyncClient, bytes_of, sleep
from plaudit._calls import Call, check, is_hopeless, no_answer
from plaudit._config import Config
from plaudit.errors import APIError, ConnectionFailedError, NotFoundError
from plaudit.retries import Attempts

#: The service closes connections that are idle for five seconds. A request on one that it is just
#: closing would be lost, and some requests cannot be repeated.
KEEPALIVE_SECONDS = 3.0


class AsyncTransport:
    """Connections to one service with one key."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._http = AsyncClient(
            base_url=config.url,
            headers=config.headers(),
            timeout=config.timeouts(),
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
            follow_redirects=False,  # the key is for this service only
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def attempts(self, call: Call) -> Attempts:
        """The attempts at a call, none of them made yet."""
        return Attempts(
            call.retries or self.config.patience.retries, is_repeatable=call.is_repeatable
        )

    async def send(self, call: Call) -> httpx.Response:
        """The answer, read to its end, of as many attempts as are safe and needed.

        Raises:
            APIError, ConnectionFailedError, UnexpectedResponseError
        """
        attempts = self.attempts(call)
        while True:
            try:
                async with self.open(call) as response:
                    await response.aread()
                return response
            except NotFoundError:
                if call.method == "DELETE" and attempts.was_ambiguous:
                    # The attempt whose answer was lost has deleted it.
                    return httpx.Response(httpx.codes.NO_CONTENT)
                raise
            except (APIError, ConnectionFailedError) as error:
                await self.pause(attempts, error)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx.Response]:
        """One attempt: the answer while it streams; refusals are raised."""
        try:
            async with self._http.stream(
                call.method,
                call.path,
                params=call.parameters(),
                headers=call.all_headers(),
                content=bytes_of(call.chunks()) if call.chunks else call.content(),
                timeout=self.config.timeouts(call.read_seconds),
            ) as response:
                if not response.is_success:
                    await response.aread()
                    check(response)
                yield response
        except httpx.RequestError as error:
            raise no_answer(self.config.url, error) from error

    async def pause(self, attempts: Attempts, error: APIError | ConnectionFailedError) -> None:
        """Wait before the next attempt, or raise the error where there is none."""
        retry = None if is_hopeless(error) else attempts.after(error)
        if retry is None:
            raise error
        if self.config.patience.on_retry is not None:
            self.config.patience.on_retry(retry)
        await sleep(retry.delay_seconds)
