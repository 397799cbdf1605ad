# Generated from ../_async/adapters.py by `make client-models`. Do not edit.
"""Adapters: what succeeded jobs made; ``client.adapters``."""

from __future__ import annotations

import os
from pathlib import Path

from plaudit._calls import Call, parse, path
from plaudit._files import Wanted, check_directory, check_names
from plaudit._sync.concurrency import blocking
from plaudit._sync.downloads import download_file
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit.models import AdapterItem, AdapterRead, MergeRead, PushRead


class Adapters:
    """Trained adapters and merged models."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, job_id: str | None = None, page_size: int = PAGE_SIZE, after: str | None = None
    ) -> Items[AdapterItem]:
        """Adapters, newest first; all pages, as they are iterated."""
        query = {"job_id": job_id, "limit": page_size, "after": after}
        return Items(self._transport, Call("GET", "/v1/adapters", query), AdapterItem)

    def get(self, adapter_id: str) -> AdapterRead:
        """An adapter: its files with bytes and sha256, metrics, certificate."""
        call = Call("GET", path("/v1/adapters/{}", adapter_id))
        return parse(AdapterRead, self._transport.send(call))

    def delete(self, adapter_id: str) -> None:
        """Delete an adapter; its job stays."""
        self._transport.send(Call("DELETE", path("/v1/adapters/{}", adapter_id)))

    def download(
        self, adapter_id: str, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> AdapterRead:
        """Bring an adapter's files into a directory; every sha256 is checked.

        Goes on where an earlier download of the same adapter ended. A directory that holds other
        files is refused; with ``overwrite`` those of the same names are replaced, and the others
        stay.

        Raises:
            DirectoryError: the directory holds other files.
            DownloadError: bytes are not those that the service promised; they are not kept.
        """
        adapter = self.get(adapter_id)
        wanted = [Wanted(file.name, file.bytes, file.sha256) for file in adapter.files]
        check_names(wanted)
        target = Path(directory)
        if not overwrite:
            blocking(lambda: check_directory(target, wanted))
        for file in wanted:
            address = path("/v1/adapters/{}/files/{}", adapter_id, file.name)
            download_file(self._transport, address, file, target, overwrite=overwrite)
        return adapter

    def download_archive(
        self, adapter_id: str, file: str | os.PathLike[str], *, overwrite: bool = False
    ) -> AdapterRead:
        """Bring all files of an adapter home in one tar; resumed and checked like the files.

        Raises:
            DirectoryError: the file exists with other bytes, and ``overwrite`` is false.
            DownloadError: the bytes are not those that the service promised; they are not kept.
        """
        adapter = self.get(adapter_id)
        target = Path(file)
        wanted = Wanted(target.name, adapter.archive.bytes, adapter.archive.sha256)
        address = path("/v1/adapters/{}/archive", adapter_id)
        download_file(self._transport, address, wanted, target.parent, overwrite=overwrite)
        return adapter

    def merge(self, adapter_id: str) -> MergeRead:
        """Ask for base and adapter merged into one model; asking again gives the same export."""
        call = Call("POST", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, self._transport.send(call))

    def push(self, adapter_id: str, repo: str, *, private: bool = True) -> PushRead:
        """Have a worker upload the adapter to ``org/name`` of the operator's hub."""
        body = {"repo": repo, "private": private}
        call = Call("POST", path("/v1/adapters/{}/push", adapter_id), body=body)
        return parse(PushRead, self._transport.send(call))

    def get_push(self, adapter_id: str) -> PushRead:
        """The newest push of an adapter."""
        call = Call("GET", path("/v1/adapters/{}/push", adapter_id))
        return parse(PushRead, self._transport.send(call))

    def get_merge(self, adapter_id: str) -> MergeRead:
        """How far the merged export of an adapter is; once succeeded, its ``adapter_id``."""
        call = Call("GET", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, self._transport.send(call))
