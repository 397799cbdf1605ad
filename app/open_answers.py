"""Answers that last: so many at once for a key, and ended when the client stops reading."""

from __future__ import annotations

from typing import Any

import structlog
from anyio import fail_after
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.errors import RateLimitedError
from app.rates import AtOnce
from app.security import Principal

log = structlog.get_logger()

#: A client that takes nothing for so long is given up; a stream's heartbeat notices it as well.
STALLED_SECONDS = 60.0
RETRY_AFTER_SECONDS = 5.0


class OpenAnswer(StreamingResponse):
    """A streamed response that counts as open from its first byte to its last."""

    def __init__(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream.

        Raises:
            RateLimitedError: too much is open already; nothing was sent.
        """
        principal: Principal = self._request.scope["principal"]
        at_once: AtOnce = self._request.app.state.rates.open_answers
        if not at_once.enter(principal.key_id):
            raise RateLimitedError(
                f"This key has {at_once.limit} streams and downloads open.", RETRY_AFTER_SECONDS
            )

        async def patiently(message: Message) -> None:
            with fail_after(STALLED_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, patiently)
        except TimeoutError:
            log.info("client_stalled", path=scope["path"])
        finally:
            at_once.leave(principal.key_id)
