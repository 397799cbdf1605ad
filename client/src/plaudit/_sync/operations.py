# Generated from ../_async/operations.py by `make client-models`. Do not edit.
"""What the service offers and does: base models, queue, workers, audit log, keys, health."""

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
    """The models that jobs may ask for."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[BaseModelRead]:
        """The operator's catalogue."""
        return Items(self._transport, Call("GET", "/v1/base-models"), BaseModelRead)

    def get(self, base_model_id: str) -> BaseModelRead:
        """One of them."""
        call = Call("GET", path("/v1/base-models/{}", base_model_id))
        return parse(BaseModelRead, self._transport.send(call))


class Queue:
    """This tenant's waiting jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[QueueItem]:
        """Their places, and why they wait."""
        return Items(self._transport, Call("GET", "/v1/queue"), QueueItem)


class Workers:
    """The workers that are alive."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Items[WorkerRead]:
        """Their devices, and what of this tenant they run."""
        return Items(self._transport, Call("GET", "/v1/workers"), WorkerRead)


class AuditLog:
    """Who did what; needs the scope ``admin``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[AuditRead]:
        """Acts, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/audit", {"limit": page_size, "after": after})
        return Items(self._transport, call, AuditRead)


class ApiKeys:
    """The keys of this tenant; needs the scope ``admin``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, **fields: Unpack[params.ApiKeyCreate]) -> ApiKeyCreated:
        """Make a key; its ``secret`` is shown this once.

        A lost answer is not asked for again: that would make a second key.
        """
        call = Call("POST", "/v1/api-keys", body=fields, is_repeatable=False)
        return parse(ApiKeyCreated, self._transport.send(call))

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[ApiKeyRead]:
        """Keys that are not revoked, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/api-keys", {"limit": page_size, "after": after})
        return Items(self._transport, call, ApiKeyRead)

    def revoke(self, key_id: str) -> None:
        """End a key for good."""
        self._transport.send(Call("DELETE", path("/v1/api-keys/{}", key_id)))
