"""Imports datasets from the operator's hub; ``client.datasets.imports``."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from plaudit import params
from plaudit._async.concurrency import sleep
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit.errors import ImportFailedError
from plaudit.models import ImportRead

POLL_SECONDS = 2.0


class AsyncDatasetImports:
    """Imports of datasets: a worker downloads them from the operator's hub."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **fields: Unpack[params.ImportCreate]) -> ImportRead:
        """Queue an import of ``source``, such as ``hub:org/name@main``. The default ``split`` is
        ``train``."""
        call = Call("POST", "/v1/datasets/imports", body=fields)
        return parse(ImportRead, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[ImportRead]:
        """List imports, newest first. Iterating requests further pages as needed."""
        call = Call("GET", "/v1/datasets/imports", {"limit": page_size, "after": after})
        return AsyncItems(self._transport, call, ImportRead)

    async def get(self, import_id: str) -> ImportRead:
        """Return an import."""
        call = Call("GET", path("/v1/datasets/imports/{}", import_id))
        return parse(ImportRead, await self._transport.send(call))

    async def cancel(self, import_id: str) -> ImportRead:
        """Cancel an import. An import that has ended is returned unchanged."""
        call = Call("POST", path("/v1/datasets/imports/{}/cancel", import_id))
        return parse(ImportRead, await self._transport.send(call))

    async def wait(self, import_id: str) -> str:
        """Wait until the import has ended, and return the id of its dataset.

        Waiting continues across restarts of the service, up to ``Retries.outage_seconds``.

        Raises:
            ImportFailedError: the import failed or was cancelled.
        """
        call = Call("GET", path("/v1/datasets/imports/{}", import_id))
        while True:
            found = parse(ImportRead, await self._transport.send(call))
            if found.dataset_id:
                return found.dataset_id
            if found.status in ("failed", "cancelled"):
                raise ImportFailedError(found)
            await sleep(POLL_SECONDS)
            call = replace(call, retries=self._transport.config.policy.retries.during_outage())
