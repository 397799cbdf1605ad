"""Base models, queue, workers, audit log and API keys of the service."""

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
    """Base models that jobs may train on."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[BaseModelRead]:
        """List the operator's catalogue of base models."""
        return AsyncItems(self._transport, Call("GET", "/v1/base-models"), BaseModelRead)

    async def get(self, base_model_id: str) -> BaseModelRead:
        """Return a base model of the catalogue."""
        call = Call("GET", path("/v1/base-models/{}", base_model_id))
        return parse(BaseModelRead, await self._transport.send(call))


class AsyncQueue:
    """Queued jobs of this tenant."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[QueueItem]:
        """List queued jobs with their positions and the reasons why they wait."""
        return AsyncItems(self._transport, Call("GET", "/v1/queue"), QueueItem)


class AsyncWorkers:
    """Workers that are running."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncItems[WorkerRead]:
        """List workers with their devices and the jobs of this tenant that they run."""
        return AsyncItems(self._transport, Call("GET", "/v1/workers"), WorkerRead)


class AsyncAuditLog:
    """Audit log of the tenant. Requires the scope ``admin``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[AuditRead]:
        """List audit entries, newest first. Iterating requests further pages as needed."""
        call = Call("GET", "/v1/audit", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, AuditRead)


class AsyncApiKeys:
    """API keys of this tenant. Requires the scope ``admin``."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **fields: Unpack[params.ApiKeyCreate]) -> ApiKeyCreated:
        """Create a key. Only this response contains its ``secret``.

        The request is not retried after a lost response, because a retry would create a second
        key.
        """
        call = Call("POST", "/v1/api-keys", body=fields, is_repeatable=False)
        return parse(ApiKeyCreated, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[ApiKeyRead]:
        """List keys that are not revoked, newest first. Iterating requests further pages as
        needed."""
        call = Call("GET", "/v1/api-keys", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, ApiKeyRead)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key permanently."""
        await self._transport.send(Call("DELETE", path("/v1/api-keys/{}", key_id)))
