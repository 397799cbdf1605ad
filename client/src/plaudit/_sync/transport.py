# Generated from ../_async/transport.py by `make client-models`. Do not edit.
"""Sends calls, again where that is safe, and turns refusals into errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from plaudit._calls import Call, check, is_hopeless, no_answer
from plaudit._config import Config
from plaudit._sync.concurrency import Client, bytes_of, sleep
from plaudit.errors import APIError, ConnectionFailedError, NotFoundError
from plaudit.retries import Attempts

#: The service closes connections that are idle for five seconds. A request on one that it is just
#: closing would be lost, and some requests cannot be repeated.
KEEPALIVE_SECONDS = 3.0


class Transport:
    """Connections to one service with one key."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._http = Client(
            base_url=config.url,
            headers=config.headers(),
            timeout=config.timeouts(),
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
            follow_redirects=False,  # the key is for this service only
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def attempts(self, call: Call) -> Attempts:
        """The attempts at a call, none of them made yet."""
        return Attempts(
            call.retries or self.config.patience.retries, is_repeatable=call.is_repeatable
        )

    def send(self, call: Call) -> httpx.Response:
        """The answer, read to its end, of as many attempts as are safe and needed.

        Raises:
            APIError, ConnectionFailedError, UnexpectedResponseError
        """
        attempts = self.attempts(call)
        while True:
            try:
                with self.open(call) as response:
                    response.read()
                return response
            except NotFoundError:
                if call.method == "DELETE" and attempts.was_ambiguous:
                    # The attempt whose answer was lost has deleted it.
                    return httpx.Response(httpx.codes.NO_CONTENT)
                raise
            except (APIError, ConnectionFailedError) as error:
                self.pause(attempts, error)

    @contextmanager
    def open(self, call: Call) -> Iterator[httpx.Response]:
        """One attempt: the answer while it streams; refusals are raised."""
        try:
            with self._http.stream(
                call.method,
                call.path,
                params=call.parameters(),
                headers=call.all_headers(),
                content=bytes_of(call.chunks()) if call.chunks else call.content(),
                timeout=self.config.timeouts(call.read_seconds),
            ) as response:
                if not response.is_success:
                    response.read()
                    check(response)
                yield response
        except httpx.RequestError as error:
            raise no_answer(self.config.url, error) from error

    def pause(self, attempts: Attempts, error: APIError | ConnectionFailedError) -> None:
        """Wait before the next attempt, or raise the error where there is none."""
        retry = None if is_hopeless(error) else attempts.after(error)
        if retry is None:
            raise error
        if self.config.patience.on_retry is not None:
            self.config.patience.on_retry(retry)
        sleep(retry.delay_seconds)
