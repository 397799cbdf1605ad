# Generated from ../_async/adapters.py by `make client-models`. Do not edit.
"""Trained adapters: list, download, merge and push them; ``client.adapters``."""

from __future__ import annotations

import os
from pathlib import Path

from plaudit._calls import Call, parse, path
from plaudit._files import RemoteFile, check_directory, check_names
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
        """List adapters, newest first. Iterating requests further pages as needed."""
        query = {"job_id": job_id, "limit": page_size, "after": after}
        return Items(self._transport, Call("GET", "/v1/adapters", query), AdapterItem)

    def get(self, adapter_id: str) -> AdapterRead:
        """Return an adapter: its files with size and sha256, its metrics and its certificate."""
        call = Call("GET", path("/v1/adapters/{}", adapter_id))
        return parse(AdapterRead, self._transport.send(call))

    def delete(self, adapter_id: str) -> None:
        """Delete an adapter. Its job is kept."""
        self._transport.send(Call("DELETE", path("/v1/adapters/{}", adapter_id)))

    def download(
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
        adapter = self.get(adapter_id)
        files = [RemoteFile(file.name, file.bytes, file.sha256) for file in adapter.files]
        check_names(files)
        target = Path(directory)
        if not overwrite:
            blocking(lambda: check_directory(target, files))
        for file in files:
            address = path("/v1/adapters/{}/files/{}", adapter_id, file.name)
            download_file(self._transport, address, file, target, overwrite=overwrite)
        return adapter

    def download_archive(
        self, adapter_id: str, file: str | os.PathLike[str], *, overwrite: bool = False
    ) -> AdapterRead:
        """Download all files of an adapter as one tar archive and verify its sha256.

        Resumes an interrupted download of the same archive.

        Raises:
            DirectoryError: the file exists with other content, and ``overwrite`` is False.
            DownloadError: the size or sha256 is wrong; the file is not kept.
        """
        adapter = self.get(adapter_id)
        target = Path(file)
        archive = RemoteFile(target.name, adapter.archive.bytes, adapter.archive.sha256)
        address = path("/v1/adapters/{}/archive", adapter_id)
        download_file(self._transport, address, archive, target.parent, overwrite=overwrite)
        return adapter

    def merge(self, adapter_id: str) -> MergeRead:
        """Request a full model with the adapter merged into its base model.

        A worker makes it; see ``get_merge``. A repeated call returns the same merge.
        """
        call = Call("POST", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, self._transport.send(call))

    def push(self, adapter_id: str, repo: str, *, private: bool = True) -> PushRead:
        """Request that a worker uploads the adapter to the repository ``repo`` (``org/name``) of
        the operator's hub; see ``get_push``."""
        body = {"repo": repo, "private": private}
        call = Call("POST", path("/v1/adapters/{}/push", adapter_id), body=body)
        return parse(PushRead, self._transport.send(call))

    def get_push(self, adapter_id: str) -> PushRead:
        """Return the newest push of an adapter.

        Raises:
            NotFoundError: the adapter has never been pushed.
        """
        call = Call("GET", path("/v1/adapters/{}/push", adapter_id))
        return parse(PushRead, self._transport.send(call))

    def get_merge(self, adapter_id: str) -> MergeRead:
        """Return the merge of an adapter: its status and, once it succeeded, the ``adapter_id`` of
        the merged model.

        Raises:
            NotFoundError: no merge of the adapter was requested.
        """
        call = Call("GET", path("/v1/adapters/{}/merge", adapter_id))
        return parse(MergeRead, self._transport.send(call))
