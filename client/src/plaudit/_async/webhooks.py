"""Webhooks: HTTP notifications about jobs and evaluations; ``client.webhooks``."""

from __future__ import annotations

from typing import Unpack

from plaudit import params
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit.models import DeliveryRead, WebhookRead, WebhookSecret
from plaudit.webhook_messages import verify_webhook


class AsyncWebhooks:
    """URLs that the service notifies. All methods but ``verify`` require the scope ``admin``."""

    verify = staticmethod(verify_webhook)

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **fields: Unpack[params.WebhookCreate]) -> WebhookSecret:
        """Create a webhook. Only this response contains its ``secret``.

        The request is not retried after a lost response, because a retry would create a second
        webhook.
        """
        call = Call("POST", "/v1/webhooks", body=fields, is_repeatable=False)
        return parse(WebhookSecret, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[WebhookRead]:
        """List webhooks, newest first. Iterating requests further pages as needed."""
        call = Call("GET", "/v1/webhooks", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, WebhookRead)

    async def get(self, webhook_id: str) -> WebhookRead:
        """Return a webhook, without its secret."""
        call = Call("GET", path("/v1/webhooks/{}", webhook_id))
        return parse(WebhookRead, await self._transport.send(call))

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook. Queued messages are not sent."""
        await self._transport.send(Call("DELETE", path("/v1/webhooks/{}", webhook_id)))

    async def test(self, webhook_id: str) -> DeliveryRead:
        """Send a ``webhook.test`` message to the webhook, and return the delivery. A failed
        delivery is not retried."""
        call = Call("POST", path("/v1/webhooks/{}/test", webhook_id), is_repeatable=False)
        return parse(DeliveryRead, await self._transport.send(call))

    def deliveries(
        self, webhook_id: str, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[DeliveryRead]:
        """List the deliveries of the last 30 days with their status, newest first."""
        address = path("/v1/webhooks/{}/deliveries", webhook_id)
        call = Call("GET", address, {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, DeliveryRead)

    async def rotate_secret(self, webhook_id: str) -> WebhookSecret:
        """Create a new secret. For 24 hours, messages are also signed with the previous secret.

        The request is not retried after a lost response, because a second rotation would
        invalidate the old secret at once.
        """
        address = path("/v1/webhooks/{}/rotate-secret", webhook_id)
        call = Call("POST", address, is_repeatable=False)
        return parse(WebhookSecret, await self._transport.send(call))
