# Generated from ../_async/operations.py by `make client-models`. Do not edit.
"""Base models, queue, workers, audit log and API keys of the service."""

from __future__ import annotations

from typing import Unpack

from plaudit import params
from plaudit._calls import Call, parse, path
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit.models import (
    ApiKeyCreated,
    ApiKeyRead,
    AuditRead,
    BaseModelRead,
    QueueItem,
    WorkerRead,
)


class BaseModels:
    """Base models that jobs may train on."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[BaseModelRead]:
        """List the operator's catalogue of base models."""
        return Items(self._transport, Call("GET", "/v1/base-models"), BaseModelRead)

    def get(self, base_model_id: str) -> BaseModelRead:
        """Return a base model of the catalogue."""
        call = Call("GET", path("/v1/base-models/{}", base_model_id))
        return parse(BaseModelRead, self._transport.send(call))


class Queue:
    """Queued jobs of this tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[QueueItem]:
        """List queued jobs with their positions and the reasons why they wait."""
        return Items(self._transport, Call("GET", "/v1/queue"), QueueItem)


class Workers:
    """Workers that are running."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[WorkerRead]:
        """List workers with their devices and the jobs of this tenant that they run."""
        return Items(self._transport, Call("GET", "/v1/workers"), WorkerRead)


class AuditLog:
    """Audit log of the tenant. Requires the scope ``admin``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[AuditRead]:
        """List audit entries, newest first. Iterating requests further pages as needed."""
        call = Call("GET", "/v1/audit", {"limit": page_size, "after": after})
        return Items(self._transport, call, AuditRead)


class ApiKeys:
    """API keys of this tenant. Requires the scope ``admin``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, **fields: Unpack[params.ApiKeyCreate]) -> ApiKeyCreated:
        """Create a key. Only this response contains its ``secret``.

        The request is not retried after a lost response, because a retry would create a second
        key.
        """
        call = Call("POST", "/v1/api-keys", body=fields, is_repeatable=False)
        return parse(ApiKeyCreated, self._transport.send(call))

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[ApiKeyRead]:
        """List keys that are not revoked, newest first. Iterating requests further pages as
        needed."""
        call = Call("GET", "/v1/api-keys", {"limit": page_size, "after": after})
        return Items(self._transport, call, ApiKeyRead)

    def revoke(self, key_id: str) -> None:
        """Revoke a key permanently."""
        self._transport.send(Call("DELETE", path("/v1/api-keys/{}", key_id)))
