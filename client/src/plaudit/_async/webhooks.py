"""Webhooks: be told about jobs; ``client.webhooks``."""

from __future__ import annotations

from typing import Unpack

from plaudit import params
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit.models import DeliveryRead, WebhookRead, WebhookSecret
from plaudit.webhook_messages import verify_webhook


class AsyncWebhooks:
    """Addresses that are told about jobs; needs the scope ``admin``, but for ``verify``."""

    verify = staticmethod(verify_webhook)

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **fields: Unpack[params.WebhookCreate]) -> WebhookSecret:
        """Have an address told when jobs start, pause or end; its ``secret`` is shown this once.

        A lost answer is not asked for again: that would make a second webhook.
        """
        call = Call("POST", "/v1/webhooks", body=fields, is_repeatable=False)
        return parse(WebhookSecret, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[WebhookRead]:
        """Webhooks, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/webhooks", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, WebhookRead)

    async def get(self, webhook_id: str) -> WebhookRead:
        """A webhook, without its secret."""
        call = Call("GET", path("/v1/webhooks/{}", webhook_id))
        return parse(WebhookRead, await self._transport.send(call))

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook; what waits for it is not sent any more."""
        await self._transport.send(Call("DELETE", path("/v1/webhooks/{}", webhook_id)))

    async def test(self, webhook_id: str) -> DeliveryRead:
        """Send it a ``webhook.test`` message, once."""
        call = Call("POST", path("/v1/webhooks/{}/test", webhook_id), is_repeatable=False)
        return parse(DeliveryRead, await self._transport.send(call))

    def deliveries(
        self, webhook_id: str, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[DeliveryRead]:
        """Messages of the last thirty days and how they fared, newest first."""
        address = path("/v1/webhooks/{}/deliveries", webhook_id)
        call = Call("GET", address, {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, DeliveryRead)

    async def rotate_secret(self, webhook_id: str) -> WebhookSecret:
        """Make a new secret; for a day messages are signed with the one before, too.

        A lost answer is not asked for again: a second rotation would end the old secret at once.
        """
        address = path("/v1/webhooks/{}/rotate-secret", webhook_id)
        call = Call("POST", address, is_repeatable=False)
        return parse(WebhookSecret, await self._transport.send(call))
