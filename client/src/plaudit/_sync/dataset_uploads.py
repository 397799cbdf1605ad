# Generated from ../_async/dataset_uploads.py by `make client-models`. Do not edit.
"""Uploads datasets in numbered parts; ``client.datasets.uploads``."""

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
from plaudit._uploads import OnBytes, UploadedDataset, read_source, report_bytes
from plaudit.errors import APIError, ConnectionFailedError
from plaudit.models import UploadPartRead, UploadRead, UploadWithParts

#: Read timeout: the service checks the pairs of all parts before it responds.
FINISH_SECONDS = 6 * 3600.0


class DatasetUploads:
    """Multipart uploads: several files become one dataset.

    ``client.datasets.upload`` calls these methods for a directory, a list of files or a large file.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str | None = None, **options: Unpack[ReadOptions]) -> UploadRead:
        """Create a multipart upload. It expires 24 hours after its last part arrived."""
        query = {"name": name, **read_query(options)}
        call = Call("POST", "/v1/datasets/uploads", query, is_repeatable=False)
        return parse(UploadRead, self._transport.send(call))

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[UploadRead]:
        """List uploads that have not expired, newest first. Iterating requests further pages as
        needed."""
        call = Call("GET", "/v1/datasets/uploads", {"limit": page_size, "after": after})
        return Items(self._transport, call, UploadRead)

    def get(self, upload_id: str) -> UploadWithParts:
        """Return an upload and the parts that the service has received."""
        call = Call("GET", path("/v1/datasets/uploads/{}", upload_id))
        return parse(UploadWithParts, self._transport.send(call))

    def put(self, upload_id: str, number: int, file: str | os.PathLike[str]) -> UploadPartRead:
        """Upload a file as part ``number`` (1 to 1000). It replaces a part with the same number."""
        source = blocking(lambda: read_source(file))
        call = Call(
            "PUT",
            path("/v1/datasets/uploads/{}/parts/{}", upload_id, str(number)),
            chunks=source.chunks,
            headers={"Content-Type": source.content_type, "Content-Length": str(source.size)},
        )
        return parse(UploadPartRead, self._transport.send(call))

    def finish(self, upload_id: str, parts: int | None = None) -> UploadedDataset:
        """Create a dataset from the parts.

        Args:
            upload_id: ``up_…``
            parts: expected number of parts; None: do not check the number.

        Raises:
            ConflictError: a part is missing.
            InvalidRequestError: rows are invalid. The upload stays open, so that parts can be
                replaced.
        """
        call = Call(
            "POST",
            path("/v1/datasets/uploads/{}/finish", upload_id),
            {"parts": parts},
            read_seconds=FINISH_SECONDS,
        )
        response = self._transport.send(call)
        dataset = parse(UploadedDataset, response)
        return dataset.with_status(is_new=response.status_code == httpx.codes.CREATED)

    def delete(self, upload_id: str) -> None:
        """Delete an upload and its parts."""
        self._transport.send(Call("DELETE", path("/v1/datasets/uploads/{}", upload_id)))

    def send_all(
        self, upload_id: str, parts: Sequence[Part], on_bytes: OnBytes | None
    ) -> UploadedDataset:
        """Upload the parts that the service does not have yet, and finish the upload."""
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
                    chunks=report_bytes(part.chunks, on_bytes),
                    headers={"Content-Type": part.content_type, "Content-Length": str(part.size)},
                )
                self._transport.send(call)
            return self.finish(upload_id, len(parts))
        except (APIError, ConnectionFailedError) as error:
            error.add_note(f"Resume the upload with resume={upload_id!r}.")
            raise
