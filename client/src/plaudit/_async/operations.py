"""What the service offers and does: base models, queue, workers, audit log, keys, health."""

from __future__ import annotations

from typing import Unpack

from plaudit import params
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit.models import (
    ApiKeyCreated,
    ApiKeyRead,
    AuditRead,
    BaseModelRead,
    QueueItem,
    WorkerRead,
)


class AsyncBaseModels:
    """The models that jobs may ask for."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[BaseModelRead]:
        """The operator's catalogue."""
        return AsyncItems(self._transport, Call("GET", "/v1/base-models"), BaseModelRead)

    async def get(self, base_model_id: str) -> BaseModelRead:
        """One of them."""
        call = Call("GET", path("/v1/base-models/{}", base_model_id))
        return parse(BaseModelRead, await self._transport.send(call))


class AsyncQueue:
    """This tenant's waiting jobs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[QueueItem]:
        """Their places, and why they wait."""
        return AsyncItems(self._transport, Call("GET", "/v1/queue"), QueueItem)


class AsyncWorkers:
    """The workers that are alive."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[WorkerRead]:
        """Their devices, and what of this tenant they run."""
        return AsyncItems(self._transport, Call("GET", "/v1/workers"), WorkerRead)


class AsyncAuditLog:
    """Who did what; needs the scope ``admin``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[AuditRead]:
        """Acts, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/audit", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, AuditRead)


class AsyncApiKeys:
    """The keys of this tenant; needs the scope ``admin``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **fields: Unpack[params.ApiKeyCreate]) -> ApiKeyCreated:
        """Make a key; its ``secret`` is shown this once.

        A lost answer is not asked for again: that would make a second key.
        """
        call = Call("POST", "/v1/api-keys", body=fields, is_repeatable=False)
        return parse(ApiKeyCreated, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[ApiKeyRead]:
        """Keys that are not revoked, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/api-keys", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, ApiKeyRead)

    async def revoke(self, key_id: str) -> None:
        """End a key for good."""
        await self._transport.send(Call("DELETE", path("/v1/api-keys/{}", key_id)))
