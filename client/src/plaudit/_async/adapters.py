"""Trained adapters: list, download, merge and push them; ``client.adapters``."""

from __future__ import annotations

import os
from pathlib import Path

from plaudit._async.concurrency import blocking
from plaudit._async.downloads import download_file
from plaudit._async.pages import PAGE_SIZE, AsyncItems
from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, parse, path
from plaudit._files import RemoteFile, check_directory, check_names
from plaudit.models import AdapterItem, AdapterRead, MergeRead, PushRead


class AsyncAdapters:
    """Trained adapters and merged models."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, job_id: str | None = None, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> AsyncItems[AdapterItem]:
        """List adapters, newest first. Iterating requests further pages as needed."""
        query = {"job_id": job_id, "limit": page_size, "after": after}
        return AsyncItems(self._transport, Call("GET", "/v1/adapters", query), AdapterItem)

    async def get(self, adapter_id: str) -> AdapterRead:
        """Return an adapter: its files with size and sha256, its metrics and its certificate."""
        call = Call("GET", path("/v1/adapters/{}", adapter_id))
        return parse(AdapterRead, await self._transport.send(call))

    async def delete(self, adapter_id: str) -> None:
        """Delete an adapter. Its job is kept."""
        await self._transport.send(Call("DELETE", path("/v1/adapters/{}", adapter_id)))

    async def download(
        self, adapter_id: str, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> AdapterRead:
        """Download the files of an adapter into a directory and verify the sha256 of each.

        Resumes an interrupted download of the same adapter. With ``overwrite``, files with the same
        names are replaced and other files in the directory are kept; the default is to refuse a
        directory with other files. The directory is created if it does not exist.

        Raises:
            DirectoryError: the directory contains other files, and ``overwrite`` is False.
            DownloadError: the size or sha256 of a file is wrong; that file is not kept.
        """
        adapter = await self.get(adapter_id)
        files = [RemoteFile(file.name, file.bytes, file.sha256) for file in adapter.files]
        check_names(files)
        target = Path(directory)
        if not overwrite:
            await blocking(lambda: check_directory(target, files))
        for file in files:
            address = path("/v1/adapters/{}/files/{}", adapter_id, file.name)
            await download_file(self._transport, address, file, target, overwrite=overwrite)
        return adapter

    async def download_archive(
        self, adapter_id: str, file: str | os.PathLike[str], *, overwrite: bool = False
    ) -> AdapterRead:
        """Download all files of an adapter as one tar archive and verify its sha256.

        Resumes an interrupted download of the same archive.

        Raises:
            DirectoryError: the file exists with other content, and ``overwrite`` is False.
            DownloadError: the size or sha256 is wrong; the file is not kept.
        """
        adapter = await self.get(adapter_id)
        target = Path(file)
        archive = RemoteFile(target.name, adapter.archive.bytes, adapter.archive.sha256)
        address = path("/v1/adapters/{}/archive", adapter_id)
        await download_file(self._transport, address, archive, target.parent, overwrite=overwrite)
        return adapter

    async def merge(self, adapter_id: str) -> MergeRead:
        """Request a full model with the adapter merged into its base model.

        A worker makes it; see ``get_merge``. A repeated call returns the same merge.
        """
        call = Call("POST", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, await self._transport.send(call))

    async def push(self, adapter_id: str, repo: str, *, private: bool = True) -> PushRead:
        """Request that a worker uploads the adapter to the repository ``repo`` (``org/name``) of
        the operator's hub; see ``get_push``."""
        body = {"repo": repo, "private": private}
        call = Call("POST", path("/v1/adapters/{}/push", adapter_id), body=body)
        return parse(PushRead, await self._transport.send(call))

    async def get_push(self, adapter_id: str) -> PushRead:
        """Return the newest push of an adapter.

        Raises:
            NotFoundError: the adapter has never been pushed.
        """
        call = Call("GET", path("/v1/adapters/{}/push", adapter_id))
        return parse(PushRead, await self._transport.send(call))

    async def get_merge(self, adapter_id: str) -> MergeRead:
        """Return the merge of an adapter: its status and, once it succeeded, the ``adapter_id`` of
        the merged model.

        Raises:
            NotFoundError: no merge of the adapter was requested.
        """
        call = Call("GET", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, await self._transport.send(call))
