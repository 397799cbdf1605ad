# Generated from ../_async/dataset_uploads.py by `make client-models`. Do not edit.
"""Uploads in numbered parts; ``client.datasets.uploads``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Unpack

import httpx

from plaudit._calls import Call, parse, path
from plaudit._part_files import Part, ReadOptions, read_query
from plaudit._sync.concurrency import blocking
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit._uploads import OnBytes, UploadedDataset, read_source, told
from plaudit.errors import APIError, ConnectionFailedError
from plaudit.models import UploadPartRead, UploadRead, UploadWithParts

#: The service checks the pairs of all parts before it answers.
FINISH_SECONDS = 6 * 3600.0


class DatasetUploads:
    """Uploads of several files that become one dataset.

    ``client.datasets.upload`` does all of this for a directory, a list of files or a large file.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str | None = None, **options: Unpack[ReadOptions]) -> UploadRead:
        """Open an upload; it expires a day after its last part."""
        query = {"name": name, **read_query(options)}
        call = Call("POST", "/v1/datasets/uploads", query, is_repeatable=False)
        return parse(UploadRead, self._transport.send(call))

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[UploadRead]:
        """Uploads that have not expired, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/datasets/uploads", {"limit": page_size, "after": after})
        return Items(self._transport, call, UploadRead)

    def get(self, upload_id: str) -> UploadWithParts:
        """An upload and the parts that arrived."""
        call = Call("GET", path("/v1/datasets/uploads/{}", upload_id))
        return parse(UploadWithParts, self._transport.send(call))

    def put(self, upload_id: str, number: int, file: str | os.PathLike[str]) -> UploadPartRead:
        """Send a file as this part (1 to 1000), in place of one that is there."""
        source = blocking(lambda: read_source(file))
        call = Call(
            "PUT",
            path("/v1/datasets/uploads/{}/parts/{}", upload_id, str(number)),
            chunks=source.chunks,
            headers={"Content-Type": source.content_type, "Content-Length": str(source.size)},
        )
        return parse(UploadPartRead, self._transport.send(call))

    def finish(self, upload_id: str, parts: int | None = None) -> UploadedDataset:
        """Make a dataset of the parts; ``parts`` says how many there are.

        Raises:
            ConflictError: a part is missing.
            InvalidRequestError: pairs are refused; the upload stays open.
        """
        call = Call(
            "POST",
            path("/v1/datasets/uploads/{}/finish", upload_id),
            {"parts": parts},
            read_seconds=FINISH_SECONDS,
        )
        response = self._transport.send(call)
        dataset = parse(UploadedDataset, response)
        return dataset.marked(is_new=response.status_code == httpx.codes.CREATED)

    def delete(self, upload_id: str) -> None:
        """Delete an upload and its parts."""
        self._transport.send(Call("DELETE", path("/v1/datasets/uploads/{}", upload_id)))

    def send_all(
        self, upload_id: str, parts: Sequence[Part], on_bytes: OnBytes | None
    ) -> UploadedDataset:
        """Send the parts that the upload lacks and finish it."""
        state = self.get(upload_id)
        known = {part.number: part.sha256 for part in state.parts}
        try:
            for number, part in enumerate(parts, 1):
                if number in known and known[number] == blocking(part.sha256):
                    if on_bytes is not None:
                        on_bytes(part.size)
                    continue
                call = Call(
                    "PUT",
                    path("/v1/datasets/uploads/{}/parts/{}", upload_id, str(number)),
                    {"format": part.file_format},
                    chunks=told(part.chunks, on_bytes),
                    headers={"Content-Type": part.content_type, "Content-Length": str(part.size)},
                )
                self._transport.send(call)
            return self.finish(upload_id, len(parts))
        except (APIError, ConnectionFailedError) as error:
            error.add_note(f"Continue the upload with resume={upload_id!r}.")
            raise
