"""Answers that last: so many at once for a key."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.auth.key_ring import Principal
from app.auth.rate_limit import ConcurrencyLimiter
from app.core.errors import RateLimitedError

RETRY_AFTER_SECONDS = 5.0


class LimitedStreamingResponse(StreamingResponse):
    """A streamed response that counts as open from its first byte to its last.

    One whose client takes nothing any more is ended by the kernel (TCP_USER_TIMEOUT in
    ``app.cli.serve``): no timer here can tell a slow client from one that is gone.

    Raises:
        RateLimitedError: too much is open already; nothing was sent.
    """

    def __init__(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        principal: Principal = request.scope["principal"]
        self._key_id = principal.key_id
        self._at_once: ConcurrencyLimiter = request.app.state.rates.open_answers
        if self._at_once.is_full(self._key_id):
            raise self._refusal()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        if not self._at_once.enter(self._key_id):  # it filled up since
            raise self._refusal()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_once.leave(self._key_id)

    def _refusal(self) -> RateLimitedError:
        return RateLimitedError(
            f"This key has {self._at_once.limit} streams and downloads open.", RETRY_AFTER_SECONDS
        )
