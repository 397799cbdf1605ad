"""Streaming responses, limited per API key."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.auth.key_ring import Principal
from app.auth.rate_limit import ConcurrencyLimiter
from app.core.errors import RateLimitedError
from app.web.http_semantics import is_head

RETRY_AFTER_SECONDS = 5.0


class LimitedStreamingResponse(StreamingResponse):
    """A streaming response that counts against the limit of its API key while it is open.

    If the client stops reading, the kernel closes the connection (TCP_USER_TIMEOUT in
    ``app.cli.serve``). A timer here could not tell a slow client from one that has gone.

    Raises:
        RateLimitedError: The key has too many open responses. Nothing was sent.
    """

    def __init__(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        principal: Principal = request.scope["principal"]
        self._key_id = principal.key_id
        self._at_once: ConcurrencyLimiter = request.app.state.rates.open_answers
        if self._at_once.is_full(self._key_id):
            raise self._refusal()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; only its head for a HEAD request, as the body may never end."""
        if is_head(scope):
            await Response(status_code=self.status_code, headers=dict(self.headers))(
                scope, receive, send
            )
            return
        if not self._at_once.enter(self._key_id):  # others opened since the constructor checked
            raise self._refusal()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_once.leave(self._key_id)

    def _refusal(self) -> RateLimitedError:
        return RateLimitedError(
            f"This API key has {self._at_once.limit} open streams and downloads, the maximum.",
            RETRY_AFTER_SECONDS,
        )
