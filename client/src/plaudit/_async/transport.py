"""Sends requests, retries them where that is safe, and raises the errors of responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from plaudit._async.concurrency import AsyncClient, bytes_of, sleep
from plaudit._calls import Call, check, connection_error, is_certificate_error, unexpected
from plaudit._config import Config, bad_environment
from plaudit.errors import APIError, ConnectionFailedError, NotFoundError
from plaudit.retries import Attempts

#: Must be below the five seconds after which the service closes idle connections: a request on a
#: connection that is being closed is lost, and some requests cannot be retried.
KEEPALIVE_SECONDS = 3.0


class AsyncTransport:
    """Connections to one service with one API key."""

    def __init__(self, config: Config) -> None:
        self.config = config
        try:
            self._http = AsyncClient(
                base_url=config.url,
                headers=config.headers(),
                timeout=config.timeouts(),
                limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
                follow_redirects=False,  # the API key must not be sent to another host
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            raise bad_environment(error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def attempts(self, call: Call) -> Attempts:
        """Return a new counter of attempts for a call."""
        return Attempts(
            call.retries or self.config.policy.retries, is_repeatable=call.is_repeatable
        )

    async def send(self, call: Call) -> httpx.Response:
        """Send a request, retry it where that is safe, and return the complete response.

        Raises:
            APIError: the service refused the request.
            ConnectionFailedError: there was no response.
            UnexpectedResponseError: the response is not from Plaudit.
        """
        attempts = self.attempts(call)
        while True:
            try:
                async with self.open(call) as response:
                    await response.aread()
                if call.method == "DELETE" and response.status_code != httpx.codes.NO_CONTENT:
                    raise unexpected(response, "it does not confirm the deletion")
                return response
            except NotFoundError as error:
                is_ours = error.code != "unknown"  # a proxy does not know what was deleted
                if call.method == "DELETE" and attempts.was_ambiguous and is_ours:
                    # An earlier attempt, whose response was lost, has deleted it.
                    return httpx.Response(httpx.codes.NO_CONTENT)
                raise
            except (APIError, ConnectionFailedError) as error:
                await self.pause(attempts, error)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx.Response]:
        """Make one attempt and yield the response as a stream; raise the error of a refusal."""
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
            raise connection_error(self.config.url, error) from error

    async def pause(self, attempts: Attempts, error: APIError | ConnectionFailedError) -> None:
        """Wait before the next attempt; raise ``error`` if there is no further attempt."""
        retry = None if is_certificate_error(error) else attempts.after(error)
        if retry is None:
            raise error
        if self.config.policy.on_retry is not None:
            self.config.policy.on_retry(retry)
        await sleep(retry.delay_seconds)
