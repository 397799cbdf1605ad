"""Score whole datasets; ``client.score_batches``."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Unpack

from plaudit import params
from plaudit._async import following
from plaudit._async.downloads import download_file
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, json_lines, parse, path
from plaudit._files import RemoteFile
from plaudit.errors import DownloadError
from plaudit.models import EventRead, ScoreBatchItem, ScoreBatchRead

Rows = list[dict[str, Any]]


class AsyncScoreBatches:
    """Jobs that score whole datasets with an adapter."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, *, idempotency_key: str | None = None, **spec: Unpack[params.ScoreBatchSpec]
    ) -> ScoreBatchRead:
        """Queue a job that scores every reply of a dataset.

        All attempts of one call send the same idempotency key, so that a retry never creates a
        second batch. Pass ``idempotency_key`` to repeat the call from another process.

        Raises:
            InvalidRequestError: the spec is invalid, or the adapter cannot score the dataset;
                ``errors`` names the fields.
            QuotaExceededError: the limit of queued batches is reached.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        call = Call("POST", "/v1/score/batches", body=spec, headers=headers)
        return parse(ScoreBatchRead, await self._transport.send(call))

    def list(
        self, *, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[ScoreBatchItem]:
        """List batches, newest first, without spec and result. Iterating requests further
        pages as needed."""
        query = {"limit": page_size, "after": after}
        return AsyncItems(self._transport, Call("GET", "/v1/score/batches", query), ScoreBatchItem)

    async def get(self, batch_id: str) -> ScoreBatchRead:
        """Return a batch; ``result`` is None until it has succeeded."""
        call = Call("GET", path("/v1/score/batches/{}", batch_id))
        return parse(ScoreBatchRead, await self._transport.send(call))

    async def wait(self, batch_id: str, *, timeout: float | None = None) -> ScoreBatchRead:
        """Wait until the batch has succeeded, failed or been cancelled, and return it.

        Waiting continues across restarts of the service, up to ``Retries.outage_seconds``.

        Raises:
            TimeoutError: it has not ended after ``timeout`` seconds. The batch continues.
        """
        address = path("/v1/score/batches/{}", batch_id)
        return await following.wait_finished(self._transport, ScoreBatchRead, address, timeout)

    async def cancel(self, batch_id: str) -> ScoreBatchRead:
        """Cancel a batch. It cannot be resumed."""
        call = Call("POST", path("/v1/score/batches/{}/cancel", batch_id))
        return parse(ScoreBatchRead, await self._transport.send(call))

    async def delete(self, batch_id: str) -> None:
        """Delete a finished batch with its scores."""
        await self._transport.send(Call("DELETE", path("/v1/score/batches/{}", batch_id)))

    def events(
        self, batch_id: str, *, after: int = 0, follow: bool = True
    ) -> AsyncIterator[EventRead]:
        """Yield the events of a batch, oldest first; see ``jobs.events``."""
        address = path("/v1/score/batches/{}/events", batch_id)
        return following.events(self._transport, address, after, follow=follow)

    async def scores(self, batch_id: str) -> Rows:
        """Return the scores of every reply: one dict per row of the dataset, in the order of its
        rows.

        If a row cannot be scored, its ``scores`` are None and ``reason`` says why.
        """
        call = Call("GET", path("/v1/score/batches/{}/scores", batch_id))
        return json_lines(await self._transport.send(call))

    async def download(
        self, batch_id: str, file: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """Download the scores as JSON lines, verify the sha256 and return the path. Resumes an
        interrupted download of the same scores.

        Raises:
            DirectoryError: the file exists with other content, and ``overwrite`` is False.
            DownloadError: the batch has not succeeded, or the size or sha256 is wrong.
        """
        batch = await self.get(batch_id)
        if batch.result is None:
            raise DownloadError(f"{batch_id} is {batch.status}.", hint="Wait until it succeeds.")
        target = Path(file)
        wanted = RemoteFile(target.name, batch.result.bytes, batch.result.sha256)
        address = path("/v1/score/batches/{}/scores", batch_id)
        await download_file(self._transport, address, wanted, target.parent, overwrite=overwrite)
        return target
