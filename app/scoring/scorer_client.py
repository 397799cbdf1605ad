"""The HTTP client with which the API calls scorers."""

from __future__ import annotations

from typing import Any

import httpx


class ScorerClient(httpx.AsyncClient):
    """Reports every connection that cannot be made as an error of httpx."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request.

        Raises:
            httpx.TransportError: the scorer is gone.
        """
        try:
            return await super().send(request, **options)
        except AttributeError as error:
            # uvloop forgets the socket of a connection that is reset as soon as it was made, and
            # anyio then asks None for the name of the peer, before anything was sent.
            if error.name != "getpeername":
                raise
            raise httpx.ConnectError("the connection was reset", request=request) from error
